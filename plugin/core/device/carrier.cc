#include "plugin/core/device/carrier.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "plugin/core/device/image.h"
#include "plugin/core/operation.h"
#include "plugin/core/operation_book.h"
#include "plugin/core/quiet_thread.h"

namespace ultraep {
namespace {

// How often it looks at gates, failures and who is gone.
constexpr uint64_t kWatchNs = 100'000;
// Kernels cannot wake a thread: between looks it sleeps for so long, in a pause of the job longer.
constexpr uint64_t kNapNs = 20'000, kLongNapNs = 500'000, kPauseNs = 1'000'000'000;
// More text than that, which nobody has asked for yet, is one failure said many times.
constexpr size_t kFailuresKept = 2000;
// Until the carrier has read a kernel's note: it looks ten thousand times a second.
constexpr uint64_t kNoteNs = 1'000'000'000;

// What a kernel's note says, in words.
std::string TextOf(DeviceFailure code, uint64_t a, uint64_t b, uint32_t experts) {
  const std::string first = std::to_string(a), second = std::to_string(b);
  switch (code) {
    case DeviceFailure::kBadId:
      return "ids[" + first + "] is " + std::to_string(int32_t(b)) + ", must be -1 or 0.." +
             std::to_string(experts - 1);
    case DeviceFailure::kNoVerdict:
      return "no verdict came within step_timeout";
    case DeviceFailure::kNotAccepted:
      return "rank " + first + " is gone or has not issued the stream" + kOneOrder;
    case DeviceFailure::kNoChunk:
      return "the weights of transfer " + first + " have not arrived (chunk " + second +
             "): a rank on their way is gone or late";
    case DeviceFailure::kNoGradient:
      return "rank " + first + " is gone or has not published the gradient of expert " + second;
    case DeviceFailure::kNotTaken:
      return "slot " + second + " still holds a gradient for rank " + first +
             ", which is gone or late";
    case DeviceFailure::kCountsDiffer:
      return "the routed ids name expert " + first + " " + second +
             " times, the submitted row says otherwise";
    case DeviceFailure::kSetInUse:
      return "slot set " + first + " is in use by the plan of step " + second +
             ": release it first, or join with more slot_sets for steps that overlap";
    case DeviceFailure::kOrder:
      return "calls came in an impossible order (kernel " + first + "): submit, await, stream, " +
             "await weights, release; at most `window` steps between submit and await";
    case DeviceFailure::kStopped:
      return "the generation has failed";
    default:
      return "failure " + std::to_string(uint64_t(code)) + " (" + first + ", " + second + ")";
  }
}

}  // namespace

Carrier::Carrier(const GroupConfig& config, uint32_t rank, uint32_t teams, uint64_t spin_ns,
                 Steps* steps, std::shared_ptr<StepMemory> memory)
    : config_(config),
      rank_(rank),
      teams_(teams),
      spin_ns_(spin_ns),
      steps_(steps),
      memory_(std::move(memory)),
      next_(steps->next_sequence()),
      resolved_(next_),
      open_(config.window),
      row_(config.experts) {}

void Carrier::Start() {
  thread_ = StartQuietThread("ultraep-carrier", [this] { Run(); });
}

void Carrier::Leave() {
  leaving_ = true;
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return left_; });
}

void Carrier::Stop() {
  stopping_ = true;
  for (uint32_t i = 0; i < kMemories; ++i)
    memory_->mailbox().head().stop[i].value.store(1, std::memory_order_seq_cst);
  memory_->mailbox().head().closed.value.store(1, std::memory_order_seq_cst);
  if (thread_.joinable()) thread_.join();
}

// A kernel's note is there before the stream's end is; the carrier reads it at its next look.
Result Carrier::Check() {
  MailboxHead& head = memory_->mailbox().head();
  const uint64_t lost = head.lost.value.load(std::memory_order_acquire);
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::nanoseconds(kNoteNs), [&] {
    return head.failure.code.value.load(std::memory_order_acquire) ==
           uint64_t(DeviceFailure::kNone);
  });
  std::string text = std::exchange(failures_, "");
  for (const auto& shown : shown_)  // another rank could not follow: these results are void too
    if (const auto g = shown.lock(); g && g->failed() && !g->failure_told.exchange(true))
      text += (text.empty() ? "" : "; ") + g->FailureText();
  const bool more = lost > told_lost_;
  told_lost_ = std::max(told_lost_, lost);
  if (!text.empty()) last_ = text;
  if (text.empty() && more) text = "work was lost with a failed generation: " + last_;
  return text.empty() ? Ok() : Failed(std::move(text));
}

void Carrier::Say(std::string failure) {
  std::lock_guard lock(mutex_);
  if (failures_.size() < kFailuresKept)
    failures_ += (failures_.empty() ? "" : "; ") + std::move(failure);
}

void Carrier::Fail(std::string why) {
  Say(std::move(why));
  std::lock_guard lock(mutex_);
  const auto g = shown_[0].lock();
  if (!g) return;
  g->failure_told = true;
  g->Fail();
}

// Running out of memory is no reason to end the framework's process; its group must not wait for
// this rank, though.
void Carrier::Run() {
  uint64_t watched = 0, active = NowNs();
  while (!stopping()) {
    try {
      bool worked = TakeRow();
      worked |= GiveVerdict(0);
      const uint64_t now = NowNs();
      if (now - watched >= kWatchNs) {
        watched = now;
        Watch();
      }
      if (worked)
        active = now;
      else
        Sleep(now, active);
    } catch (const std::exception& e) {
      Say(std::string("out of memory: ") + e.what());
      if (const auto g = steps_->generation()) g->Fail();
      const timespec pause{0, long(kLongNapNs)};
      nanosleep(&pause, nullptr);
    }
  }
}

void Carrier::Sleep(uint64_t now, uint64_t active) {
  if (now - active < spin_ns_) {
    for (int i = 0; i < 8; ++i) CpuRelax();
    return;
  }
  // A verdict is woken for; a row is not, so while one may come the sleep is short.
  if (resolved_ != next_) {
    GiveVerdict(kNapNs);
    return;
  }
  const timespec nap{0, long(now - active < kPauseNs ? kNapNs : kLongNapNs)};
  nanosleep(&nap, nullptr);
}

bool Carrier::TakeRow() {
  if (next_ - resolved_ >= config_.window) return false;
  MailboxRow& row = memory_->mailbox().row(next_);
  if (row.stamp.value.load(std::memory_order_acquire) != next_ + 1) return false;
  std::copy_n(row.row(), config_.experts, row_.begin());
  if (row.faults) {
    Say("step " + std::to_string(next_) + ": " +
        TextOf(DeviceFailure::kBadId, row.fault_index, uint64_t(row.fault_value), config_.experts));
    if (const auto g = steps_->generation()) g->Fail();
  }
  Submit(row, row.faults != 0);
  return true;
}

// A step whose row cannot be submitted is failed here, and the group must not wait for it: it ends
// as a declined one. FAILED means that an earlier plan was lost: said once, then the call may be
// repeated.
void Carrier::Submit(const MailboxRow& row, bool faulty) {
  Open& open = open_[next_ % config_.window];
  open.failed = faulty;
  for (;;) {
    const Result result =
        steps_->Submit(next_, row.layer, row.microbatch, row_.data(), config_.experts);
    if (result.ok()) break;
    if (result.status != ULTRAEP_FAILED) {
      std::fill(row_.begin(), row_.end(), 0);
      open.failed = true;
      if (const auto g = steps_->generation()) g->Fail();
    }
    if (!faulty) Say(result.text);
  }
  open.generation = steps_->memory()->current();
  ++next_;
  memory_->mailbox().head().taken.value.store(next_, std::memory_order_release);
}

bool Carrier::GiveVerdict(uint64_t timeout_ns) {
  if (resolved_ == next_) return false;
  if (timeout_ns == 0 && !steps_->Poll()) return false;
  ResolvedStep step;
  const Result result = steps_->Await(resolved_, timeout_ns, &step);
  if (result.status == ULTRAEP_TIMEOUT) return false;
  Open& open = open_[resolved_ % config_.window];
  if (!result.ok()) Say(result.text);
  ImageContext context{rank_, teams_, 0, 0, 0};
  if (open.generation && open.generation->device) {
    const Generation& g = *open.generation;
    context.chunks = g.layout.chunks;
    context.generation = g.id;
    context.memory = g.device->index;
    held_[context.memory] = open.generation;
    if (current_ != context.memory) {
      switched_ = resolved_;
      std::lock_guard lock(mutex_);
      shown_[1] = std::move(shown_[0]);
      shown_[0] = open.generation;
    }
    current_ = context.memory;
  }
  BuildImage(step, open.failed || !result.ok(), context, &router_,
             memory_->mailbox().image(resolved_));
  memory_->mailbox().verdict(resolved_).value.store(resolved_ + 1, std::memory_order_release);
  open = {};
  ++resolved_;
  return true;
}

// Rule 3: a kernel that could not follow fails the generation that it worked on.
void Carrier::TakeFailure() {
  FailureNote& note = memory_->mailbox().head().failure;
  const auto code = DeviceFailure(note.code.value.load(std::memory_order_acquire));
  if (code == DeviceFailure::kNone || code == DeviceFailure::kBeingWritten) return;
  Say("step " + std::to_string(note.sequence) + ": " +
      TextOf(code, note.a, note.b, config_.experts));
  const uint64_t memory = note.memory < kMemories ? note.memory : current_;
  if (memory < kMemories && held_[memory]) {
    held_[memory]->failure_told = true;
    held_[memory]->Fail();
  }
  {
    std::lock_guard lock(mutex_);
    note.code.value.store(uint64_t(DeviceFailure::kNone), std::memory_order_release);
  }
  changed_.notify_all();
}

void Carrier::Watch() {
  TakeFailure();
  CountTotals();
  const MailboxView& mailbox = memory_->mailbox();
  // Before a verdict has reached the kernels, operations may still begin on the memory before it.
  const bool switched = mailbox.head().resolved.value.load(std::memory_order_acquire) > switched_;
  for (uint32_t i = 0; i < kMemories; ++i) {
    if (!held_[i]) continue;
    const Generation& g = *held_[i];
    auto* const gone = mailbox.memory(i).gone(config_.ranks);
    for (uint32_t r = 0; r < config_.ranks; ++r)
      if (r != rank_ && g.IsGone(r)) gone[r].store(1, std::memory_order_release);
    if (g.failed()) mailbox.head().stop[i].value.store(1, std::memory_order_release);
    // The link's thread unmaps it: that may block. After a leave it has ended, and who detaches
    // does.
    if (i != current_ && switched && !leaving_ && !memory_->busy(i)) held_[i] = nullptr;
  }
  if (!leaving_) return;
  if (const auto g = steps_->generation(); g && !g->gate().over()) g->End();
  if (resolved_ != next_) return;
  std::lock_guard lock(mutex_);
  left_ = true;
  changed_.notify_all();
}

// Kernels add up what they did; the present generation's board shows it.
void Carrier::CountTotals() {
  if (current_ == kMemories || !held_[current_]) return;
  constexpr size_t kWords = sizeof(TransferTotals) / 8;
  uint64_t now[kWords], before[kWords], more[kWords];
  CopyFromShared(now, &memory_->mailbox().head().totals, sizeof now);
  std::memcpy(before, &counted_, sizeof before);
  bool moved = false;
  for (size_t i = 0; i < kWords; ++i) {
    more[i] = now[i] - before[i];
    moved |= more[i] != 0;
  }
  if (!moved) return;
  TransferTotals difference;
  std::memcpy(&difference, more, sizeof more);
  std::memcpy(&counted_, now, sizeof now);
  held_[current_]->book->Count(difference);
}

}  // namespace ultraep
