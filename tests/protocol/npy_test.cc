#include "protocol/npy.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ultraep {
namespace {

// A file with the given header text (without padding) and data.
std::string File(const std::string& header, const std::string& data, uint8_t major = 1) {
  std::string out("\x93NUMPY", 6);
  out += char(major);
  out += '\0';
  const uint64_t length = header.size() + 1;
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i) out += char(length >> (8 * i) & 0xff);
  return out + header + '\n' + data;
}

std::string Header(const std::string& shape, const std::string& type = "<u4",
                   const std::string& order = "False") {
  return "{'descr': '" + type + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}

void ExpectRefused(const std::string& bytes, const std::string& part_of_text) {
  NpyArray array;
  const std::string wrong = ParseNpy(bytes, &array);
  EXPECT_NE(wrong.find(part_of_text), std::string::npos)
      << "said '" << wrong << "', expected '" << part_of_text << "'";
}

TEST(Npy, ReadsAllVersionsAndTypes) {
  const std::string eight("\x01\0\0\0\xff\xff\xff\xff", 8);
  for (const uint8_t major : {1, 2, 3}) {
    NpyArray array;
    ASSERT_EQ(ParseNpy(File(Header("(1, 2)"), eight, major), &array), "");
    EXPECT_EQ(array.shape, (std::vector<uint64_t>{1, 2}));
    EXPECT_EQ(array.type, NpyType::kUint32);
  }
  NpyArray array;
  const std::string u4 = File(Header("(2,)"), eight);
  ASSERT_EQ(ParseNpy(u4, &array), "");
  EXPECT_EQ(array.at(0), 1);
  EXPECT_EQ(array.at(1), 4294967295);
  const std::string i4 = File(Header("(2,)", "<i4"), eight);
  ASSERT_EQ(ParseNpy(i4, &array), "");
  EXPECT_EQ(array.at(1), -1);
  const std::string i8 = File(Header("(1,)", "<i8"), eight);
  ASSERT_EQ(ParseNpy(i8, &array), "");
  EXPECT_EQ(array.at(0), int64_t(0xffffffff00000001));
}

TEST(Npy, ReadsKeysInAnyOrderWithAnySpacing) {
  NpyArray array;
  const std::string file =
      File("{\"shape\":(1,1),  'fortran_order':False,'descr':'<u4'}   ", std::string(4, 'x'));
  EXPECT_EQ(ParseNpy(file, &array), "");
}

TEST(Npy, ReadsScalarsAndEmptyArrays) {
  NpyArray array;
  EXPECT_EQ(ParseNpy(File(Header("()"), std::string(4, 0)), &array), "");
  EXPECT_EQ(array.cells, 1);
  EXPECT_EQ(ParseNpy(File(Header("(3, 0)"), ""), &array), "");
  EXPECT_EQ(array.cells, 0);
}

TEST(Npy, ReadsItsOwnHeader) {
  for (const std::vector<uint64_t>& shape :
       {std::vector<uint64_t>{}, {7}, {2, 3}, {58, 64, 256}, {1, 1, 1, 1, 1, 1, 1, 1}}) {
    NpyArray array;
    const std::string header = NpyHeader(shape, "<i8");
    EXPECT_EQ(header.size() % 64, 0);
    uint64_t cells = 1;
    for (const uint64_t dimension : shape) cells *= dimension;
    const std::string file = header + std::string(cells * 8, '\0');
    ASSERT_EQ(ParseNpy(file, &array), "");
    EXPECT_EQ(array.shape, shape);
    EXPECT_EQ(array.type, NpyType::kInt64);
  }
}

TEST(Npy, RefusesWhatIsNoNpyFile) {
  ExpectRefused("", "not an npy file");
  ExpectRefused("PK\x03\x04 a zip file", "not an npy file: it begins with 'PK\\x03\\x04");
  ExpectRefused(std::string("\x93NUMPY", 6), "ends before its version");
  ExpectRefused(std::string("\x93NUMPY\x01\0", 8), "ends before its header");
  ExpectRefused(File(Header("(1,)"), "1234", 4), "npy version is 4.0");
  std::string minor = File(Header("(1,)"), "1234");
  minor[7] = 1;
  ExpectRefused(minor, "npy version is 1.1");
}

TEST(Npy, RefusesEveryTruncation) {
  const std::string whole = File(Header("(2, 3)"), std::string(24, 'x'));
  NpyArray array;
  ASSERT_EQ(ParseNpy(whole, &array), "");
  for (size_t size = 0; size < whole.size(); ++size)
    EXPECT_NE(ParseNpy(whole.substr(0, size), &array), "") << size;
  ExpectRefused(whole.substr(0, whole.size() - 1), "truncated: 23 bytes, the header promises 24");
}

TEST(Npy, RefusesTrailingData) {
  ExpectRefused(File(Header("(1,)"), "12345"), "1 bytes more than the 4");
}

TEST(Npy, RefusesOtherTypesByName) {
  for (const char* type : {">u4", "|u1", "<f4", "<f8", "<u8", "<i2", "=u4", "|O", "", "<u4 "})
    ExpectRefused(File(Header("(1,)", type), "1234"),
                  "npy dtype is '" + std::string(type) + "', allowed are '<u4', '<i4' and '<i8'");
  ExpectRefused(File("{'descr': [('a', '<u4')], 'fortran_order': False, 'shape': (1,), }", "1234"),
                "structured arrays are refused");
}

TEST(Npy, RefusesFortranOrderAndSaysHowToFixIt) {
  ExpectRefused(File(Header("(1,)", "<u4", "True"), "1234"), "numpy.ascontiguousarray");
  ExpectRefused(File(Header("(1,)", "<u4", "0"), "1234"), "expected True or False");
}

TEST(Npy, RefusesShapesWhoseProductOverflows) {
  ExpectRefused(File(Header("(4294967296, 4294967296)"), ""), "shape is too large");
  ExpectRefused(File(Header("(18446744073709551615,)"), ""), "above 2^64");
  ExpectRefused(File(Header("(99999999999999999999999,)"), ""), "above 2^64");
  ExpectRefused(File(Header("(2305843009213693952,)"), ""), "shape is too large");
  ExpectRefused(File(Header("(1, 1, 1, 1, 1, 1, 1, 1, 1)"), "1234"), "more than 8 dimensions");
}

TEST(Npy, RefusesMalformedHeaders) {
  ExpectRefused(File("", "1234"), "malformed");
  ExpectRefused(File("'descr'", "1234"), "expected '{'");
  ExpectRefused(File("{'descr': '<u4'}", "1234"), "once each");
  ExpectRefused(File(Header("(1,)") + "x", "1234"), "nothing after the dict");
  ExpectRefused(File(Header("(1)"), "1234"), "expected ','");
  ExpectRefused(File(Header("(-1,)"), "1234"), "a dimension or ')'");
  ExpectRefused(File(Header("(1L,)"), "1234"), "expected ','");
  ExpectRefused(File(Header("[1]"), "1234"), "expected '('");
  ExpectRefused(File("{'descr': '<u4', 'descr': '<u4', }", "1234"), "'descr' twice");
  ExpectRefused(File("{'descr': '<u4', 'color': 1, }", "1234"), "key 'color'");
  ExpectRefused(File("{'descr", "1234"), "a quoted key");
  std::string no_newline = File(Header("(1,)"), "1234");
  no_newline[no_newline.find('\n')] = ' ';
  ExpectRefused(no_newline, "does not end with a newline");
}

}  // namespace
}  // namespace ultraep
