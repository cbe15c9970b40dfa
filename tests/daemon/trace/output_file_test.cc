// Where an output lands: beside and moved, through a link, or into what is no regular file.
#include "daemon/trace/output_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "protocol/transport/seqpacket.h"

namespace ultraep::trace {
namespace {

namespace fs = std::filesystem;

class OutputFileTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "output-XXXXXX";
    ASSERT_NE(mkdtemp(root_.data()), nullptr);
  }
  void TearDown() override { fs::remove_all(root_); }
  std::string Path(const char* name) const { return root_ + "/" + name; }
  std::string Text(const char* name) const {
    std::ifstream file(Path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Put(const char* name, const char* text) { std::ofstream(Path(name)) << text; }
  std::string WriteAll(const char* name, bool force) {
    OutputFile file;
    std::string wrong = file.Open(Path(name), force);
    if (wrong.empty()) wrong = file.Write("new", 3);
    return wrong.empty() ? file.Close() : wrong;
  }
  long Entries() const {
    return std::distance(fs::directory_iterator(root_), fs::directory_iterator());
  }

  std::string root_;
};

TEST_F(OutputFileTest, AFileIsReplacedOnlyWhenAskedForAndWhenWhole) {
  EXPECT_EQ(WriteAll("a", false), "");
  Put("a", "old");
  EXPECT_NE(WriteAll("a", false).find("--force"), std::string::npos);
  {
    OutputFile file;
    EXPECT_EQ(file.Open(Path("a"), true), "");
    EXPECT_EQ(file.Write("half", 4), "");
  }
  EXPECT_EQ(Text("a"), "old");
  EXPECT_EQ(WriteAll("a", true), "");
  EXPECT_EQ(Text("a"), "new");
  EXPECT_EQ(Entries(), 1);
}

TEST_F(OutputFileTest, ALinkStaysAndItsTargetIsReplaced) {
  Put("target", "old");
  fs::create_symlink("target", Path("link"));
  EXPECT_NE(WriteAll("link", false).find("--force"), std::string::npos);
  EXPECT_EQ(WriteAll("link", true), "");
  EXPECT_TRUE(fs::is_symlink(Path("link")));
  EXPECT_FALSE(fs::is_symlink(Path("target")));
  EXPECT_EQ(Text("target"), "new");
  fs::create_symlink("nothing", Path("lost"));
  EXPECT_NE(WriteAll("lost", true).find("symbolic link"), std::string::npos);
}

TEST_F(OutputFileTest, WhatIsNoRegularFileIsWrittenInto) {
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  fs::create_symlink("pipe", Path("link"));
  const Descriptor reader(open(Path("pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  for (const char* name : {"pipe", "link"}) {
    EXPECT_EQ(WriteAll(name, false), "");
    char bytes[8] = {};
    EXPECT_EQ(read(reader.get(), bytes, sizeof bytes), 3);
    EXPECT_STREQ(bytes, "new");
  }
  EXPECT_TRUE(fs::is_fifo(Path("pipe")));
  EXPECT_EQ(Entries(), 2);
  EXPECT_NE(WriteAll(".", true), "");
}

TEST_F(OutputFileTest, AnInputIsNoOutputByAnyName) {
  Put("a", "x");
  Put("b", "x");
  fs::create_symlink("a", Path("link"));
  fs::create_hard_link(Path("a"), Path("hard"));
  for (const char* name : {"a", "./a", "link", "hard"})
    EXPECT_NE(CheckOutputs({Path("b"), Path("a")}, {Path("none"), Path(name)}), "") << name;
  EXPECT_EQ(CheckOutputs({Path("a")}, {Path("b"), Path("none")}), "");
  EXPECT_EQ(CheckOutputs({Path("none")}, {Path("none")}), "");
}

}  // namespace
}  // namespace ultraep::trace
