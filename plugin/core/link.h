// The link thread: finds the daemon, joins the group, maps its memory, and does so again for every
// later generation and after every restart of the daemon. Keeps the heartbeats.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "plugin/api/ultraep.h"
#include "plugin/core/generation.h"
#include "plugin/core/steps.h"
#include "protocol/lease.h"
#include "protocol/message.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

class Link {
 public:
  explicit Link(std::string socket_path);
  ~Link();

  // Begins to join; `steps` outlives the link.
  void Join(const ultraep::Join& request, const RankSettings& settings, Steps* steps);
  // Before Join: slots are on GPUs.
  void UseDevice(std::shared_ptr<StepMemory> device) { device_ = std::move(device); }
  // Sets what the link needs, without a thread; Run is then the caller's.
  void Prepare(const ultraep::Join& request, const RankSettings& settings, Steps* steps);
  // The body of the thread; returns after Leave, or when the daemon refuses for good.
  void Run();
  // Waits until the group is complete, the join is refused, or the time.
  void AwaitOpen(uint64_t timeout_ns);
  // All but info->text.
  void State(ultraep_client_info* info, std::string* text) const;
  // Tells the daemon and closes the connection; steps are resolved by then.
  void Leave();

 private:
  // What ends a piece of the link's work.
  enum class End { kAgain, kReconnect, kStop };

  // A connection's whole life.
  End Serve();
  End Connect();
  End JoinNext();
  // kAgain with none: it was over at once.
  End AskForGeneration(std::shared_ptr<Generation>* generation);
  End MapGeneration(Packet packet, std::shared_ptr<Generation>* generation);
  // kAgain with no slots: the generation was over before they were all there.
  End MapDevice(Generation* generation, std::vector<Descriptor> descriptors);
  End Watch();
  // If it is one: what the daemon said before it closed the connection.
  void KeepRefusal(const Packet& packet);
  // One packet of the daemon, however long it takes: it may be zeroing many GiB.
  End Await(Packet* packet);
  // Sleeps and beats; true when something is to be read or the link stops.
  bool Wait(bool socket, uint64_t deadline_ns);
  void Beat();
  bool stopping() const;
  void Say(ultraep_phase phase, std::string text);
  End Refuse(std::string text);
  void NoteOver();
  void CountOpening() const;  // under mutex_: by whoever sees it first

  const std::string socket_path_;
  ultraep::Join request_;
  RankSettings settings_;
  Steps* steps_ = nullptr;
  std::shared_ptr<StepMemory> device_;  // null: slots are in host memory
  Descriptor stop_, socket_;
  uint64_t beaten_ns_ = 0;
  uint64_t pause_ns_ = 0;       // before the next connection
  std::string refused_before_;  // by the daemon, since the rank last was in a group; empty: never
  mutable std::mutex mutex_;    // guards what follows
  std::condition_variable changed_;
  std::shared_ptr<Generation> generation_;
  ultraep_phase phase_ = ULTRAEP_DETACHED;
  std::string text_ = "not joined yet";
  // Since when there has been no open generation; 0: there is one, or there was none yet.
  mutable uint64_t over_ns_ = 0;
  mutable bool opening_counted_ = false;  // of generation_
  mutable uint64_t generations_ = 0, last_gap_ns_ = 0;
  bool leaving_ = false;
  std::thread thread_;
};

}  // namespace ultraep
