#include "protocol/boards.h"

#include <gtest/gtest.h>

#include <map>

#include "tests/support/memory_group.h"

namespace ultraep {
namespace {

// Every independently written piece of a group's memory, as address ranges.
TEST(BoardsTest, NoTwoPiecesOverlapAndAllStayInsideTheirSegments) {
  for (uint32_t experts : {3u, 6u, 99u, 600u}) {
    GroupConfig config = test::SmallConfig(3, experts, 2, 3);
    config.slot_sets = 2;
    config.training = 1;
    config.gradient_count = 2;
    config.gradient_bytes[0] = 1004;
    config.gradient_bytes[1] = 4;
    test::MemoryGroup group(config);
    const Boards& b = group.boards();
    const GroupLayout& layout = group.layout();
    std::map<const unsigned char*, uint64_t> pieces;
    auto add = [&](const void* at, uint64_t bytes, const unsigned char* segment, uint64_t size) {
      const auto* begin = static_cast<const unsigned char*>(at);
      EXPECT_GE(begin, segment);
      EXPECT_LE(begin + bytes, segment + size);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(begin) % 8, 0u);
      EXPECT_TRUE(pieces.emplace(begin, bytes).second);
    };
    for (uint64_t s = 0; s < 2 * config.window; ++s)
      add(&b.word(s), kLine, b.verdict_base, layout.verdict_board_bytes);
    add(&b.gate(), kLine, b.verdict_base, layout.verdict_board_bytes);
    add(&b.pulse(), kLine, b.verdict_base, layout.verdict_board_bytes);
    for (uint64_t s = 0; s < config.window; ++s) {
      add(&b.collected(s), kLine, b.plan_base, layout.plan_board_bytes);
      add(b.record(s), layout.record.bytes, b.plan_base, layout.plan_board_bytes);
    }
    for (uint32_t r = 0; r < config.ranks; ++r) {
      add(&b.member(r), kLine, b.plan_base, layout.plan_board_bytes);
      add(&b.rank(r), sizeof(RankBoard), b.rank_base[r], layout.rank_board_bytes);
      for (uint64_t s = 0; s < config.window; ++s) {
        add(&b.stamp(r, s), kLine, b.rank_base[r], layout.rank_board_bytes);
        add(b.row_header(r, s), sizeof(RowHeader), b.rank_base[r], layout.rank_board_bytes);
        add(b.row(r, s), uint64_t{config.experts} * 4, b.rank_base[r], layout.rank_board_bytes);
      }
      for (uint32_t set = 0; set < 2; ++set) {
        for (uint32_t slot = 0; slot < config.slots; ++slot) {
          add(&b.chunk_flag(r, set, slot, 0), layout.chunks * 8, b.slot_base[r],
              layout.slot_board_bytes);
          for (uint32_t i = 0; i < config.shard_count; ++i) {
            add(b.shard(r, set, slot, i), config.shard_bytes[i], b.slot_base[r],
                layout.slot_board_bytes);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(b.shard(r, set, slot, i)) % kLine, 0u);
          }
          const SlotView view = b.slot_view();
          add(&view.gradient_words(r, set, slot), sizeof(GradientWords), b.slot_base[r],
              layout.slot_board_bytes);
          for (uint32_t i = 0; i < config.gradient_count; ++i) {
            add(view.gradient(r, set, slot, i), config.gradient_bytes[i], b.slot_base[r],
                layout.slot_board_bytes);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(view.gradient(r, set, slot, i)) % kLine, 0u);
          }
        }
      }
    }
    const unsigned char* end = nullptr;
    for (auto& [begin, bytes] : pieces) {
      EXPECT_GE(begin, end);
      end = begin + bytes;
    }
  }
}

TEST(BoardsTest, ChunksCoverEveryByteOfEveryShard) {
  GroupConfig config = test::SmallConfig(2, 2, 1, 1);
  config.shard_count = 3;
  config.shard_bytes[0] = kChunkBytes;
  config.shard_bytes[1] = kChunkBytes + 1;
  config.shard_bytes[2] = 1;
  const GroupLayout layout(config);
  EXPECT_EQ(layout.chunks, 4u);
  EXPECT_EQ(layout.shard_chunk[1], 1u);
  EXPECT_EQ(layout.shard_chunk[2], 3u);
  EXPECT_EQ(layout.shard_chunks(1), 2u);
}

}  // namespace
}  // namespace ultraep
