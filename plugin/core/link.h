// The link thread: finds the daemon, joins the group, maps its memory, notices when the daemon is
// gone. Keeps trying while there is no daemon, so that a framework may start first.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "plugin/api/ultraep.h"
#include "plugin/core/generation.h"
#include "plugin/core/steps.h"
#include "protocol/message.h"
#include "protocol/transport/seqpacket.h"

namespace ultraep {

class Link {
 public:
  explicit Link(std::string socket_path);
  ~Link();

  // Begins to join; `steps` outlives the link.
  void Join(const ultraep::Join& request, const RankClocks& clocks, Steps* steps);
  // Waits until the group is complete, the join is refused, the generation is over, or the time.
  void AwaitOpen(uint64_t timeout_ns);
  ultraep_phase Phase(std::string* text, uint64_t* generation) const;
  // Tells the daemon and closes the connection; steps are resolved by then.
  void Leave();

 private:
  enum class Attempt { kDone, kRetry };

  void Run();
  Attempt Attach();
  bool Connect();
  // False: the connection broke, the daemon refused, or the link is stopping.
  bool Await(Packet* packet);
  bool ReceiveGeneration();
  void Watch();
  bool Pause(uint64_t ns);  // false when stopping
  void Say(ultraep_phase phase, std::string text);

  const std::string socket_path_;
  ultraep::Join request_;
  RankClocks clocks_;
  Steps* steps_ = nullptr;
  Descriptor stop_, socket_;
  std::shared_ptr<Generation> generation_;  // the link thread's, then also under mutex_

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  ultraep_phase phase_ = ULTRAEP_DETACHED;
  std::string text_ = "not joined yet";
  bool leaving_ = false;
  std::thread thread_;
};

}  // namespace ultraep
