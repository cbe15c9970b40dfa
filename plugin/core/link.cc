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

#include "plugin/core/quiet_thread.h"
#include "plugin/core/streamer.h"

namespace ultraep {
namespace {

// Full-jitter back-off while the daemon is absent: quick at first, never a stampede.
constexpr uint64_t kFirstPauseNs = 10'000'000, kLongestPauseNs = 1'000'000'000;
}  // namespace

Link::Link(std::string socket_path)
    : socket_path_(std::move(socket_path)), stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!stop_) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Link::~Link() { Leave(); }

void Link::Join(const ultraep::Join& request, const RankClocks& clocks, Steps* steps) {
  request_ = request;
  clocks_ = clocks;
  steps_ = steps;
  Say(ULTRAEP_DETACHED, "looking for the daemon at " + socket_path_);
  thread_ = StartQuietThread("ultraep-link", [this] { Run(); });
}

void Link::Say(ultraep_phase phase, std::string text) {
  std::lock_guard lock(mutex_);
  phase_ = phase;
  text_ = std::move(text);
  changed_.notify_all();
}

ultraep_phase Link::Phase(std::string* text, uint64_t* number) const {
  std::lock_guard lock(mutex_);
  *text = text_;
  *number = generation_ ? generation_->id : 0;
  if (phase_ != ULTRAEP_JOINING || !generation_) return phase_;
  const Gate gate = LoadGate(generation_->boards.gate());
  if (gate.state == GateState::kOpen) {
    *text = "steps are planned from step " + std::to_string(gate.value) + " on";
    return ULTRAEP_OPEN;
  }
  if (!gate.over()) return phase_;
  *text = gate.state == GateState::kFailed ? "a rank could not follow a plan: the group has failed"
                                           : "the generation is over: a member left or died";
  return ULTRAEP_OVER;
}

void Link::AwaitOpen(uint64_t timeout_ns) {
  const uint64_t deadline = DeadlineAfter(NowNs(), timeout_ns);
  std::shared_ptr<Generation> generation;
  {
    std::unique_lock lock(mutex_);
    const auto limit = std::chrono::nanoseconds(std::min<uint64_t>(timeout_ns, INT64_MAX / 2));
    changed_.wait_for(lock, limit, [&] { return phase_ != ULTRAEP_DETACHED; });
    generation = generation_;
  }
  if (!generation) return;
  WaitFor(generation->boards.pulse(), nullptr, 0, deadline,
          [&] { return LoadGate(generation->boards.gate()).state != GateState::kClosed; });
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

bool Link::Pause(uint64_t ns) {
  pollfd wait{stop_.get(), POLLIN, 0};
  return poll(&wait, 1, int(ns / 1'000'000)) <= 0;
}

void Link::Run() {
  std::minstd_rand jitter(std::random_device{}());
  uint64_t pause = kFirstPauseNs;
  while (Attach() == Attempt::kRetry) {
    socket_.reset();
    if (!Pause(pause / 2 + jitter() % (pause / 2))) return;
    pause = std::min(pause * 2, kLongestPauseNs);
  }
  socket_.reset();
}

bool Link::Connect() {
  socket_ = Descriptor(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, socket_path_.c_str(), socket_path_.size());
  if (connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0)
    return true;
  Say(ULTRAEP_DETACHED, "no daemon at " + socket_path_ + ": " + std::strerror(errno));
  return false;
}

// As long as the daemon takes: it may be zeroing many GiB for the group. A dead one closes the
// connection.
bool Link::Await(Packet* packet) {
  pollfd wait[2] = {{socket_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (poll(wait, 2, -1) < 0)
    if (errno != EINTR) return false;
  if (wait[1].revents) return false;
  const Receive got = ReceivePacket(socket_.get(), MSG_DONTWAIT, packet);
  std::string wrong;
  if (got == Receive::kDescriptorsLost)
    wrong = "out of file descriptors while joining: raise RLIMIT_NOFILE by " +
            std::to_string(kDescriptorsPerMessage);
  else if (got != Receive::kPacket)
    return false;
  if (wrong.empty()) wrong = CheckHead(packet->bytes, packet->size);
  Refused refused;
  if (wrong.empty() && As(packet->bytes, packet->size, &refused)) {
    wrong = GetText(refused.text);
    if (refused.retry) {
      Say(ULTRAEP_DETACHED, "refused for now: " + wrong);
      return false;
    }
  }
  if (wrong.empty()) return true;
  Say(ULTRAEP_REFUSED_JOIN, wrong);
  return false;
}

Link::Attempt Link::Attach() {
  const auto again = [&] {
    std::lock_guard lock(mutex_);
    return phase_ == ULTRAEP_REFUSED_JOIN || leaving_ ? Attempt::kDone : Attempt::kRetry;
  };
  if (!Connect()) return again();
  Hello hello;
  SetText(hello.build, kBuildVersion);
  Packet packet;
  Welcome welcome;
  if (!SendMessage(socket_.get(), hello) || !Await(&packet) ||
      !As(packet.bytes, packet.size, &welcome))
    return again();
  // A new request each time: steps were declined meanwhile.
  request_.next_sequence = steps_->next_sequence();
  if (!SendMessage(socket_.get(), request_) || !ReceiveGeneration()) return again();
  Watch();
  return Attempt::kDone;
}

bool Link::ReceiveGeneration() {
  Packet packet;
  Joined joined;
  if (!Await(&packet) || !As(packet.bytes, packet.size, &joined)) return false;
  auto generation = std::make_shared<Generation>(request_.config, request_.rank, joined.generation);
  generation->clocks = clocks_;
  uint32_t taken = 0;
  while (taken < SegmentCount(request_.config.ranks)) {
    Segments part;
    if (!Await(&packet) || !As(packet.bytes, packet.size, &part)) return false;
    if (part.first != taken || part.count != packet.descriptors.size() || !part.count) return false;
    for (Descriptor& d : packet.descriptors) {
      std::string wrong = generation->Add(taken++, std::move(d));
      if (wrong.empty()) continue;
      Say(ULTRAEP_REFUSED_JOIN, "cannot use the daemon's memory: " + wrong);
      return false;
    }
  }
  generation->streamer = std::make_unique<Streamer>(generation.get());
  steps_->Adopt(generation);
  {
    std::lock_guard lock(mutex_);
    generation_ = generation;
  }
  Ready ready;
  ready.generation = joined.generation;
  Say(ULTRAEP_JOINING, "waiting for the other members");
  SendMessage(socket_.get(), ready);  // if the daemon is gone by now, Watch ends the generation
  return true;
}

// Until the daemon is gone or the rank leaves. The heartbeat says that this process runs; whether
// its steps do, the daemon sees from the rows.
void Link::Watch() {
  const Generation& g = *generation_;
  Word& heartbeat = g.boards.rank(g.rank).heartbeat;
  pollfd wait[2] = {{socket_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  for (;;) {
    heartbeat.value.store(NowNs(), std::memory_order_relaxed);
    if (poll(wait, 2, int(kHeartbeatNs / 1'000'000)) < 0 && errno != EINTR) break;
    if (wait[1].revents) {
      SendMessage(socket_.get(), ultraep::Leave());
      return;
    }
    if (!wait[0].revents) continue;
    Packet packet;
    const Receive got = ReceivePacket(socket_.get(), MSG_DONTWAIT, &packet);
    if (got == Receive::kClosed) break;
  }
  // Rule 0: who knows the daemon gone ends the generation before anything else.
  EndGate(g.boards.gate());
  g.WakeMembers();
  const bool failed = LoadGate(g.boards.gate()).state == GateState::kFailed;
  Say(ULTRAEP_OVER, failed ? "a rank could not follow a plan: the group has failed"
                           : "the daemon is gone: steps are not balanced any more");
}

}  // namespace ultraep
