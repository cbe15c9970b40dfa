// Streams of the stand-in: each a thread that works off a queue; events; and captures, which keep
// what is issued in the order in which it was issued.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "tests/support/fake_cuda/machine.h"

namespace ultraep::fake_cuda {

using Work = std::function<void()>;

// Outlives its stream while somebody waits for a point of it.
class Queue {
 public:
  // Number of the work: it is over once `Wait(number)` returns.
  uint64_t Add(Work work);
  void Wait(uint64_t number);
  uint64_t last();
  bool IsOver(uint64_t number);
  // Its thread ends once all is done.
  void Close();
  void Run();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> work_;
  uint64_t added_ = 0, over_ = 0;
  bool closed_ = false;
};

// A place in a queue; default: long over.
struct Point {
  std::shared_ptr<Queue> queue;
  uint64_t number = 0;
  void Wait() const {
    if (queue) queue->Wait(number);
  }
};

struct Capture {
  CUstream origin = nullptr;
  CUstreamCaptureMode mode;
  bool invalid = false;
  std::vector<Work> work;
  std::map<CUstream, uint64_t> issued;  // members and how much each has issued
};

// What a stream of a capture has waited for: of each member, how much.
using Covered = std::map<CUstream, uint64_t>;

struct Stamp {
  std::mutex mutex;
  bool set = false;
  std::chrono::steady_clock::time_point at;
};

// Guards which streams there are, and streams' and events' members.
std::mutex& StreamsMutex();

}  // namespace ultraep::fake_cuda

struct CUstream_st {
  CUcontext context;
  bool blocking;  // goes before and after the legacy stream
  bool legacy = false;
  std::shared_ptr<ultraep::fake_cuda::Queue> queue;
  std::shared_ptr<ultraep::fake_cuda::Capture> capture;
  ultraep::fake_cuda::Covered covered;
};

struct CUevent_st {
  CUcontext context;
  bool timed;
  ultraep::fake_cuda::Point point;
  std::shared_ptr<ultraep::fake_cuda::Stamp> stamp;
  std::shared_ptr<ultraep::fake_cuda::Capture> capture;  // recorded while it ran
  ultraep::fake_cuda::Covered covered;
};

struct CUgraph_st {
  std::vector<ultraep::fake_cuda::Work> work;
};
struct CUgraphExec_st {
  std::vector<ultraep::fake_cuda::Work> work;
};

namespace ultraep::fake_cuda {

// `handle` as the caller names it, null: the context's legacy stream. Null: not of this context.
CUstream FindStream(CUcontext context, CUstream handle);
CUstream MakeStream(CUcontext context, bool blocking);
void EndStream(CUstream stream);

// A blocking stream of the context is captured, so its legacy stream may not be used. StreamsMutex
// is held.
bool IsCaptureInWay(CUcontext context);
// Runs the work in stream order, or captures it. `at`: where it is in the queue.
CUresult Issue(CUstream stream, Work work, Point* at = nullptr);
// May the calling thread wait for the device, or allocate? Else the captures in its way are spoilt.
CUresult MayBlock();
CUresult MayWaitFor(CUstream stream);
// Everything issued so far in the context, on all its streams.
void WaitForContext(CUcontext context);

CUresult BeginCapture(CUstream stream, CUstreamCaptureMode mode);
CUresult EndCapture(CUstream stream, CUgraph* graph);
CUstreamCaptureMode& ThreadMode();

}  // namespace ultraep::fake_cuda
