#include "daemon/memory/numa_placement.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/memory/group_memory.h"
#include "plugin/core/numa_node.h"
#include "protocol/transport/seqpacket.h"
#include "tests/support/memory_group.h"

namespace ultraep {
namespace {

struct Policy {
  int mode = -1;
  unsigned long nodes = 0;
  bool operator==(const Policy&) const = default;
};
constexpr Policy kAnywhere{MPOL_DEFAULT, 0};

// What the kernel has for the file's page at `offset`.
Policy PolicyAt(int fd, uint64_t offset) {
  Policy p;
  void* at = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, off_t(offset));
  EXPECT_NE(at, MAP_FAILED);
  EXPECT_EQ(syscall(SYS_get_mempolicy, &p.mode, &p.nodes, 65, at, MPOL_F_ADDR), 0);
  munmap(at, 4096);
  return p;
}

TEST(NumaPlacement, APolicyCoversItsRangeOfTheFileAndNoMore) {
  Descriptor fd(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(fd.get(), 4 * 65536), 0);
  const int node = NodeOfAllowedCpus();
  if (node < 0) GTEST_SKIP() << "this process may run on several nodes";
  if (!PreferNode(fd.get(), 65536, 2 * 65536, node)) GTEST_SKIP() << "the kernel refuses mbind";
  const Policy there{MPOL_PREFERRED, 1ul << node};
  EXPECT_EQ(PolicyAt(fd.get(), 0), kAnywhere);
  EXPECT_EQ(PolicyAt(fd.get(), 65536), there);
  EXPECT_EQ(PolicyAt(fd.get(), 3 * 65536 - 4096), there);
  EXPECT_EQ(PolicyAt(fd.get(), 3 * 65536), kAnywhere);
}

TEST(NumaPlacement, WhatIsNoNodeChangesNothing) {
  Descriptor fd(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(fd.get(), 65536), 0);
  for (const int32_t node : {-1, 63, 64, 1000}) EXPECT_FALSE(PreferNode(fd.get(), 0, 65536, node));
  EXPECT_FALSE(PreferNode(-1, 0, 65536, 0));
  EXPECT_EQ(PolicyAt(fd.get(), 0), kAnywhere);
}

TEST(NumaPlacement, EachRanksSlotsLieWhereItRuns) {
  const int node = NodeOfAllowedCpus();
  Descriptor probe(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(probe.get(), 65536), 0);
  if (!PreferNode(probe.get(), 0, 65536, node)) GTEST_SKIP() << "no node, or no mbind";
  const GroupLayout layout(test::SmallConfig(3, 3, 1, 2));
  GroupMemory memory;
  // Rank 1 said nothing.
  ASSERT_EQ(memory.Create(layout, 7, {node, -1, node}), "");
  const int slots = memory.files()[uint32_t(SegmentFile::kSlots)].get();
  const int boards = memory.files()[uint32_t(SegmentFile::kBoards)].get();
  for (uint32_t r = 0; r < 3; ++r) {
    const Policy expected = r == 1 ? kAnywhere : Policy{MPOL_PREFERRED, 1ul << node};
    EXPECT_EQ(PolicyAt(slots, layout.offset(SegmentKind::kSlots, r)), expected) << r;
    EXPECT_EQ(PolicyAt(boards, layout.offset(SegmentKind::kRankBoard, r)), expected) << r;
  }
}

TEST(NumaNode, AThreadOnOneCpuHasTheNodeOfThatCpu) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  const int cpu = sched_getcpu();
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  unsigned here = 0, node = 0;
  ASSERT_EQ(syscall(SYS_getcpu, &here, &node, nullptr), 0);
  EXPECT_EQ(NodeOfAllowedCpus(), int32_t(node));
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}

}  // namespace
}  // namespace ultraep
