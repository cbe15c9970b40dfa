// A group of three whose ranks fail one at a time: a member with the kernels of its step, and what
// must hold once it has failed.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "tests/kernels/device/device_rank.h"
#include "tests/support/heap_slots.h"

namespace ultraep::test {

using Failure = DeviceRank::Failure;

inline constexpr uint32_t kMemory = 2;
inline constexpr ExecutorKind kKinds[] = {{2, 0}, {2, 2}};
inline constexpr uint64_t kShort = 20'000'000;  // of waits that shall end by their bound

inline GroupConfig FailingConfig() {
  GroupConfig c;
  c.ranks = 3;
  c.experts = 3;
  c.slots = 1;
  c.window = 8;
  c.slot_sets = 2;
  c.training = 1;
  c.shard_count = 1;
  c.shard_bytes[0] = kChunkBytes + 50;
  c.gradient_count = 1;
  c.gradient_bytes[0] = 400;
  return c;
}

// Expert 0 of rank 0 goes to rank 1 and from there to rank 2.
inline RoutedStep Chain() {
  RoutedStep step;
  step.plan.shape = FailingConfig().shape();
  step.load.assign(9, 10);
  step.plan.replicas = {{0, 1, 0, -1, 0, 5}, {0, 2, 0, 0, 0, 5}};
  step.plan.Close({step.load.data(), 3, 3});
  return step;
}

// One rank of the group, whose memory all ranks share.
class Member {
 public:
  explicit Member(uint32_t rank, const HeapSlots& slots, const ExecutorKind& kind)
      : kind_(kind),
        device_(FailingConfig(), rank, 2),
        weights_(kChunkBytes + 50, 1),
        gradients_(100) {
    device_.Memory(kMemory, 5, slots.view().base);
    main_ = weights_.data();
    gradient_ = gradients_.data();
  }
  const DeviceRank& device() const { return device_; }
  void Bound(uint64_t ns) { device_.state().bound_ns = ns; }

  void Verdict(uint64_t sequence, uint32_t plan = 0) {
    device_.Submit(step_.row(device_.state().rank));
    device_.Verdict(MakeImage(FailingConfig(), step_, device_.state().rank,
                              {sequence, 5, kMemory, kind_.teams}));
    device_.Await(kind_, plan);
  }
  void Operate(Kernel kernel, uint32_t plan = 0, uint32_t set = 0) {
    device_.Operate(kind_, kernel, plan, set);
  }
  void Stream(uint32_t plan = 0) {
    const StreamArguments a{&device_.state(), device_.plan(plan), &main_};
    device_.Run(kind_, Kernel::kStream, &a);
  }
  void Prepare(uint32_t plan = 0) {
    const PrepareArguments a{&device_.state(), device_.plan(plan), 1, 0};
    device_.Run(kind_, Kernel::kPrepare, &a);
  }
  void Reduce(uint32_t plan = 0) {
    const ReduceArguments a{&device_.state(), device_.plan(plan), &gradient_,
                            GradientType::kFloat32, 0};
    device_.Run(kind_, Kernel::kReduce, &a);
  }
  void SetGone(uint32_t rank) { device_.SetGone(kMemory, rank); }
  void Stop() { device_.head().stop[kMemory].value.store(1); }
  bool failed() const { return device_.state().memories[kMemory].failed; }
  // Operations that are over count as such, whatever came of them.
  void CheckEnds() {
    for (uint32_t plan = 0; plan < 2; ++plan) {
      Operate(Kernel::kEndReduce, plan);
      Operate(Kernel::kRelease, plan);
    }
    EXPECT_EQ(device_.head().begun[kMemory].value.load(),
              device_.head().ended[kMemory].value.load());
  }
  // The note, and then nothing more: no operation begins or stores.
  void Expect(const Failure& wanted) {
    EXPECT_EQ(device_.TakeFailure(), wanted);
    EXPECT_TRUE(failed());
    const uint64_t begun = device_.head().begun[kMemory].value.load();
    Stream();
    Operate(Kernel::kArrive);
    CheckEnds();
    Operate(Kernel::kBeginStream);
    Prepare();
    Operate(Kernel::kPublish);
    EXPECT_EQ(device_.head().begun[kMemory].value.load(), begun);
    EXPECT_EQ(device_.TakeFailure(), Failure{});
    EXPECT_EQ(device_.head().totals.transfers, 0u);
  }

 private:
  const ExecutorKind kind_;
  const RoutedStep step_ = Chain();
  DeviceRank device_;
  std::vector<unsigned char> weights_;
  std::vector<float> gradients_;
  const void* main_;
  void* gradient_;
};

// Every rank, each on its own memory's slots.
struct Group {
  explicit Group(const ExecutorKind& kind) : slots(FailingConfig()) {
    for (uint32_t r = 0; r < 3; ++r) members.push_back(std::make_unique<Member>(r, slots, kind));
  }
  Member& operator[](uint32_t rank) { return *members[rank]; }
  // All ranks at once.
  template <class Work>
  void Each(const Work& work) {
    std::vector<std::thread> threads;
    for (auto& m : members) threads.emplace_back([&] { work(*m); });
    for (std::thread& t : threads) t.join();
  }
  // The forward stream of a step on set 0.
  void Forward(uint64_t sequence) {
    Each([&](Member& m) {
      m.Verdict(sequence);
      m.Operate(Kernel::kBeginStream);
      m.Stream();
      m.Operate(Kernel::kArrive);
    });
  }

  HeapSlots slots;
  std::vector<std::unique_ptr<Member>> members;
};

// In every kind of team: a group, and what shall happen to it.
template <class Test>
void InEveryKind(const Test& test) {
  for (const ExecutorKind& kind : kKinds) {
    SCOPED_TRACE(kind.name());
    Group group(kind);
    test(group);
  }
}

}  // namespace ultraep::test
