#include "plugin/core/link.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <system_error>
#include <utility>

#include "plugin/core/device/slots.h"
#include "plugin/core/device/step_memory.h"
#include "plugin/core/quiet_thread.h"

namespace ultraep {
namespace {

// Full-jitter back-off while the daemon is absent: quick at first, never a stampede. The longest
// pause is most of the time to re-attach after a long absence.
constexpr uint64_t kFirstPauseNs = 10'000'000, kLongestPauseNs = 400'000'000;
// How soon the opening of the gate is noticed (for the time that steps went unbalanced), and until
// when that is worth the look.
constexpr uint64_t kOpeningPeriodNs = 5'000'000, kOpeningWatchNs = 2'000'000'000;
constexpr uint64_t kPromisePeriodNs = 2'000'000;
// How soon a peer's slots on a GPU are noticed.
constexpr uint64_t kSlotsPeriodNs = 1'000'000;

uint64_t Seed() {
#ifdef ULTRAEP_TEST_POINTS
  if (test::world) return test::world->Random();
#endif
  return std::random_device{}();
}

}  // namespace

Link::Link(std::string socket_path)
    : socket_path_(std::move(socket_path)), stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!stop_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Link::~Link() { Leave(); }

void Link::Prepare(const ultraep::Join& request, const RankSettings& settings, Steps* steps) {
  request_ = request;
  settings_ = settings;
  steps_ = steps;
  Say(ULTRAEP_DETACHED, "looking for the daemon at " + socket_path_);
}

void Link::Join(const ultraep::Join& request, const RankSettings& settings, Steps* steps) {
  Prepare(request, settings, steps);
  thread_ = StartQuietThread("ultraep-link", [this] { Run(); });
}

void Link::Say(ultraep_phase phase, std::string text) {
  std::lock_guard lock(mutex_);
  phase_ = phase;
  text_ = std::move(text);
  changed_.notify_all();
}

void Link::State(ultraep_client_info* info, std::string* text) const {
  std::lock_guard lock(mutex_);
  CountOpening();
  *text = text_;
  info->phase = phase_;
  info->generation = generation_ ? generation_->id : 0;
  info->generations = generations_;
  info->last_gap_ns = last_gap_ns_;
  if (phase_ != ULTRAEP_JOINING || !generation_) return;
  const Gate gate = generation_->gate();
  if (gate.state == GateState::kOpen) {
    info->phase = ULTRAEP_OPEN;
    *text = "steps are planned from step " + std::to_string(gate.value) + " on";
  } else if (gate.over()) {
    info->phase = ULTRAEP_OVER;
    const std::string gone = generation_->WhoIsGone();
    *text = gate.state == GateState::kFailed
                ? "a rank could not follow a plan: " + generation_->FailureText()
                : "the generation is over" + (gone.empty() ? "" : ": " + gone);
  }
}

void Link::AwaitOpen(uint64_t timeout_ns) {
  const uint64_t deadline = DeadlineAfter(NowNs(), timeout_ns);
  for (;;) {
    ultraep_client_info info;
    std::string text;
    State(&info, &text);
    if (info.phase == ULTRAEP_OPEN || info.phase == ULTRAEP_REFUSED_JOIN) return;
    if (NowNs() >= deadline) return;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::milliseconds(1));
  }
}

void Link::Leave() {
  {
    std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  const uint64_t one = 1;
  if (write(stop_.get(), &one, sizeof one) != sizeof one) return;  // cannot be: counts to 2^64
  if (thread_.joinable()) thread_.join();
}

bool Link::stopping() const {
  std::lock_guard lock(mutex_);
  return leaving_;
}

// Heartbeats say that this process runs; whether its steps do, the daemon sees from the rows. They
// go on while the link waits for a daemon: members watch each other then.
void Link::Beat() {
  const uint64_t now = NowNs();
  if (now - beaten_ns_ < kHeartbeatNs) return;
  beaten_ns_ = now;
  for (const auto& g : steps_->memory()->held()) {
    g->Beat(now);
    if (g->orphaned) g->WatchMembers(now);
  }
  steps_->memory()->FreeLeftBehind();
}

bool Link::Wait(bool socket, uint64_t deadline_ns) {
  for (;;) {
    Beat();
    pollfd wait[2] = {{stop_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}};
    if (PollUntil(wait, socket ? 2 : 1, std::min(deadline_ns, beaten_ns_ + kHeartbeatNs)))
      return true;
    if (NowNs() >= deadline_ns) return false;
  }
}

// Out of memory or descriptors is no reason to end the framework's process: the rank gives up this
// connection, so that its group goes on with main copies, and tries again later.
void Link::Run() {
  std::minstd_rand jitter(static_cast<unsigned>(Seed()));
  pause_ns_ = kFirstPauseNs;
  while (!stopping()) {
    End end = End::kReconnect;
    try {
      end = Serve();
      if (end == End::kStop && stopping()) SendMessage(socket_.get(), ultraep::Leave());
      socket_.reset();
      // Nobody marks lost members on these boards any more: from now on their heartbeats count.
      for (const auto& held : steps_->memory()->held()) held->orphaned = true;
      const uint64_t pause = std::exchange(pause_ns_, std::min(pause_ns_ * 2, kLongestPauseNs));
      if (end == End::kReconnect) Wait(false, NowNs() + pause / 2 + jitter() % (pause / 2));
      // Refused for good: what is held is still used.
      while (end == End::kStop && !stopping()) Wait(false, NowNs() + kHeartbeatNs);
    } catch (const std::exception&) {
      socket_.reset();
      if (generation_) generation_->End();
      PollUntil(nullptr, 0, NowNs() + kLongestPauseNs);
    }
  }
}

Link::End Link::Serve() {
  End end = Connect();
  while (end == End::kAgain) {
    end = JoinNext();
    if (end != End::kAgain) break;
    pause_ns_ = kFirstPauseNs;
    end = Watch();
  }
  return end;
}

Link::End Link::Connect() {
  socket_ = Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path_.c_str(), socket_path_.size());
  if (connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address)) {
    Say(ULTRAEP_DETACHED, "no daemon at " + socket_path_ + ": " + std::strerror(errno));
    return End::kReconnect;
  }
  Hello hello;
  SetText(hello.build, kBuildVersion);
  Packet packet;
  Welcome welcome;
  if (!SendMessage(socket_.get(), hello)) return End::kReconnect;
  const End end = Await(&packet);
  if (end != End::kAgain) return end;
  return As(packet.bytes, packet.size, &welcome) ? End::kAgain : End::kReconnect;
}

// Who was a member once is not turned away for good: shortages pass, memory is given back.
Link::End Link::Refuse(std::string text) {
  if (steps_->memory()->current() || generation_) {
    Say(ULTRAEP_DETACHED, "refused for now: " + text);
    return End::kReconnect;
  }
  Say(ULTRAEP_REFUSED_JOIN, std::move(text));
  return End::kStop;
}

Link::End Link::Await(Packet* packet) {
  for (;;) {
    while (!Wait(true, NowNs() + kHeartbeatNs)) {
    }
    if (stopping()) return End::kStop;
    switch (ReceivePacket(socket_.get(), MSG_DONTWAIT, packet)) {
      case Receive::kPacket:
        break;
      case Receive::kNothingYet:
        continue;
      case Receive::kDescriptorsLost:
        return Refuse(
            "out of file descriptors while joining: raise RLIMIT_NOFILE by " +
            std::to_string(JoinedDescriptors(request_.config.memory, request_.config.ranks)));
      default:
        return End::kReconnect;
    }
    if (std::string wrong = CheckHead(packet->bytes, packet->size); !wrong.empty())
      return Refuse(wrong);
    Over over;
    if (As(packet->bytes, packet->size, &over)) continue;  // of the one before
    Refused refused;
    if (!As(packet->bytes, packet->size, &refused)) return End::kAgain;
    const std::string text = GetText(refused.text);
    if (!refused.retry) return Refuse(text);
    refused_before_ = text;
    Say(ULTRAEP_DETACHED, "refused for now: " + text);
    return End::kReconnect;
  }
}

void Link::KeepRefusal(const Packet& packet) {
  Refused refused;
  if (As(packet.bytes, packet.size, &refused)) refused_before_ = GetText(refused.text);
}

Link::End Link::AskForGeneration(std::shared_ptr<Generation>* generation) {
  // Rule 1: every promise on the old board is kept before the rank belongs to another one.
  while (steps_->has_promises()) {
    Packet packet;
    if (!Wait(true, NowNs() + kPromisePeriodNs)) continue;
    if (stopping()) return End::kStop;
    if (ReceivePacket(socket_.get(), MSG_DONTWAIT, &packet) == Receive::kClosed)
      return End::kReconnect;
  }
  request_.next_sequence = steps_->next_sequence();
  if (!SendMessage(socket_.get(), request_)) return End::kReconnect;
  // The daemon answers when the group is complete or refuses at once: who asked again after a
  // refusal knows no better reason than that one until then.
  const std::string gone = generation_ ? generation_->WhoIsGone() : "";
  Say(ULTRAEP_JOINING, refused_before_.empty()
                           ? "waiting for the other members" + (gone.empty() ? "" : ": " + gone)
                           : "asking again, refused before: " + refused_before_);
  Packet packet;
  if (const End end = Await(&packet); end != End::kAgain) return end;
  refused_before_.clear();
  return MapGeneration(std::move(packet), generation);
}

Link::End Link::JoinNext() {
  std::shared_ptr<Generation> generation;
  while (!generation)  // one with slots on GPUs may be over before they are all there
    if (const End end = AskForGeneration(&generation); end != End::kAgain) return end;
  steps_->Adopt(generation);
  beaten_ns_ = 0;
  Beat();
  {
    std::lock_guard lock(mutex_);
    generation_ = generation;
    opening_counted_ = false;
  }
  Ready ready;
  ready.generation = generation->id;
  SendMessage(socket_.get(), ready);  // if the daemon is gone by now, Watch ends the generation
  return End::kAgain;
}

Link::End Link::MapGeneration(Packet packet, std::shared_ptr<Generation>* generation) {
  Joined joined;
  if (!As(packet.bytes, packet.size, &joined)) return End::kReconnect;
  auto made = std::make_shared<Generation>(request_.config, request_.rank, joined.generation);
  made->settings = settings_;
  made->lease_ns = joined.lease_ns;
  if (std::string wrong = made->Map(&packet.descriptors); !wrong.empty())
    return Refuse("cannot use the daemon's memory: " + wrong);
  if (device_) {
    const End end = MapDevice(made.get(), std::move(packet.descriptors));
    if (end != End::kAgain || !made->device) return end;
  }
  made->StartOperations();
  *generation = std::move(made);
  return End::kAgain;
}

Link::End Link::MapDevice(Generation* generation, std::vector<Descriptor> descriptors) {
  auto part = std::make_unique<DevicePart>();
  part->memory = device_;
  part->slots =
      std::make_unique<DeviceSlots>(device_->context(), generation->layout, generation->rank,
                                    generation->id, std::move(descriptors));
  for (;;) {
    std::string wrong;
    const DeviceSlots::Progress progress = part->slots->Advance(&wrong);
    if (progress == DeviceSlots::Progress::kFailed) {
      Refused told;  // the others are waiting for this rank: they learn why it does not come
      SetText(told.text, wrong);
      SendMessage(socket_.get(), told);
      return Refuse(wrong);
    }
    if (progress == DeviceSlots::Progress::kDone) break;
    Say(ULTRAEP_JOINING, "waiting for the slots of rank " + part->slots->Missing());
    if (generation->gate().over()) return End::kAgain;  // a peer went before it passed its slots
    generation->Beat(NowNs());
    if (!Wait(true, NowNs() + kSlotsPeriodNs)) continue;
    if (stopping()) return End::kStop;
    Packet packet;
    const Receive received = ReceivePacket(socket_.get(), MSG_DONTWAIT, &packet);
    if (received == Receive::kPacket) KeepRefusal(packet);
    if (received == Receive::kClosed) {
      generation->End();
      return End::kReconnect;
    }
  }
  part->index = device_->Claim(generation->id, part->slots->bases());
  if (part->index == kMemories)
    return Refuse("kernels still work on the slots of " + std::to_string(kMemories) +
                  " earlier generations");
  generation->device = std::move(part);
  return End::kAgain;
}

void Link::NoteOver() {
  std::lock_guard lock(mutex_);
  CountOpening();
  if (!over_ns_) over_ns_ = NowNs();
}

void Link::CountOpening() const {
  if (!generation_ || opening_counted_) return;
  const GateState state = generation_->gate().state;
  if (state == GateState::kClosed || state == GateState::kDead) return;
  opening_counted_ = true;
  ++generations_;
  last_gap_ns_ = over_ns_ ? NowNs() - over_ns_ : 0;
  over_ns_ = 0;
}

// Until the generation is over, the daemon is gone, or the rank leaves.
Link::End Link::Watch() {
  const std::shared_ptr<Generation> g = generation_;
  const uint64_t start = NowNs();
  Lease daemon_lease;
  for (;;) {
    const Gate gate = g->gate();
    const uint64_t now = NowNs();
    if (gate.state == GateState::kOpen) {
      std::lock_guard lock(mutex_);
      CountOpening();
    }
    if (gate.over()) break;
    const bool opening = gate.state == GateState::kClosed && now - start < kOpeningWatchNs;
    if (Wait(true, now + (opening ? kOpeningPeriodNs : kHeartbeatNs))) {
      if (stopping()) return End::kStop;
      Packet packet;
      const Receive received = ReceivePacket(socket_.get(), MSG_DONTWAIT, &packet);
      if (received == Receive::kPacket) KeepRefusal(packet);
      if (received == Receive::kClosed) {
        g->End();  // rule 0: who knows the daemon gone ends the generation before anything else
        NoteOver();
        Say(ULTRAEP_OVER, "the daemon is gone: steps are declined until it is back");
        return End::kReconnect;
      }
    }
    const uint64_t beat = g->boards.plan().heartbeat.value.load(std::memory_order_relaxed);
    if (daemon_lease.Expired(beat, NowNs(), g->lease_ns)) {
      g->orphaned = true;
      g->End();
      NoteOver();
      Say(ULTRAEP_OVER, "the daemon does not answer: steps are declined until it does");
      return End::kAgain;
    }
  }
  g->WakeOperations();  // if a member is gone, transfers with it must end
  NoteOver();
  return End::kAgain;
}

}  // namespace ultraep
