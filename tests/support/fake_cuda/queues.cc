#include "tests/support/fake_cuda/queues.h"

#include <algorithm>
#include <set>
#include <thread>

#include "tests/support/fake_cuda/fake_cuda.h"

namespace ultraep::fake_cuda {
namespace {

// Guarded by StreamsMutex; never destroyed, since threads of streams live on.
struct Streams {
  std::set<CUstream> all;
  std::map<CUcontext, CUstream> legacy;
  std::vector<std::shared_ptr<Capture>> captures;
};
Streams& All() {
  static Streams* const streams = new Streams;
  return *streams;
}

// Captures that this thread has begun, and may end only itself.
std::vector<Capture*>& OwnCaptures() {
  thread_local std::vector<Capture*> own;
  return own;
}

}  // namespace

std::mutex& StreamsMutex() {
  static std::mutex* const mutex = new std::mutex;
  return *mutex;
}

CUstreamCaptureMode& ThreadMode() {
  thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return mode;
}

uint64_t Queue::Add(Work work) {
  std::lock_guard lock(mutex_);
  work_.push_back(std::move(work));
  changed_.notify_all();
  return ++added_;
}

void Queue::Wait(uint64_t number) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return over_ >= number; });
}

uint64_t Queue::last() {
  std::lock_guard lock(mutex_);
  return added_;
}

bool Queue::IsOver(uint64_t number) {
  std::lock_guard lock(mutex_);
  return over_ >= number;
}

void Queue::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void Queue::Run() {
  for (std::unique_lock lock(mutex_);;) {
    changed_.wait(lock, [&] { return closed_ || !work_.empty(); });
    if (work_.empty()) return;
    Work work = std::move(work_.front());
    work_.pop_front();
    lock.unlock();
    work();
    work = nullptr;  // what it holds goes before it counts as over
    lock.lock();
    ++over_;
    changed_.notify_all();
  }
}

CUstream MakeStream(CUcontext context, bool blocking) {
  const CUstream stream =
      new CUstream_st{context, blocking, false, std::make_shared<Queue>(), {}, {}};
  std::thread([queue = stream->queue] { queue->Run(); }).detach();
  std::lock_guard lock(StreamsMutex());
  All().all.insert(stream);
  return stream;
}

void EndStream(CUstream stream) {
  std::lock_guard lock(StreamsMutex());
  stream->queue->Close();
  All().all.erase(stream);
  delete stream;
}

CUstream FindStream(CUcontext context, CUstream handle) {
  if (handle && handle != CU_STREAM_LEGACY) {
    std::lock_guard lock(StreamsMutex());
    return All().all.count(handle) != 0 && handle->context == context ? handle : nullptr;
  }
  {
    std::lock_guard lock(StreamsMutex());
    const auto found = All().legacy.find(context);
    if (found != All().legacy.end()) return found->second;
  }
  const CUstream made = MakeStream(context, false);
  std::lock_guard lock(StreamsMutex());
  const auto [at, fresh] = All().legacy.emplace(context, made);
  made->legacy = true;
  return at->second;
}

bool IsCaptureInWay(CUcontext context) {
  return std::any_of(All().all.begin(), All().all.end(), [&](CUstream stream) {
    return stream->context == context && stream->blocking && stream->capture;
  });
}

CUresult Issue(CUstream stream, Work work, Point* at) {
  std::lock_guard lock(StreamsMutex());
  if (Capture* const capture = stream->capture.get()) {
    if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    capture->work.push_back(std::move(work));
    stream->covered[stream] = ++capture->issued[stream];
    return CUDA_SUCCESS;
  }
  if (stream->legacy && IsCaptureInWay(stream->context)) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  std::vector<Point> before;
  const bool serial = Machine::Get().options.serial;
  for (const CUstream other : All().all) {
    if (other->context != stream->context || other == stream) continue;
    if (serial || (stream->legacy ? other->blocking : stream->blocking && other->legacy))
      before.push_back({other->queue, other->queue->last()});
  }
  const uint64_t number = stream->queue->Add([before, work = std::move(work)] {
    for (const Point& point : before) point.Wait();
    work();
  });
  if (at) *at = {stream->queue, number};
  return CUDA_SUCCESS;
}

CUresult MayBlock() {
  if (ThreadMode() == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  std::lock_guard lock(StreamsMutex());
  bool may = true;
  for (const auto& capture : All().captures) {
    const auto& own = OwnCaptures();
    const bool is_own = std::find(own.begin(), own.end(), capture.get()) != own.end();
    if (is_own ? capture->mode == CU_STREAM_CAPTURE_MODE_RELAXED
               : capture->mode != CU_STREAM_CAPTURE_MODE_GLOBAL ||
                     ThreadMode() != CU_STREAM_CAPTURE_MODE_GLOBAL)
      continue;
    capture->invalid = true;
    may = false;
  }
  return may ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult MayWaitFor(CUstream stream) {
  if (const CUresult result = MayBlock(); result != CUDA_SUCCESS) return result;
  std::lock_guard lock(StreamsMutex());
  if (!stream->capture) return CUDA_SUCCESS;
  stream->capture->invalid = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

void WaitForContext(CUcontext context) {
  std::vector<Point> points;
  {
    std::lock_guard lock(StreamsMutex());
    for (const CUstream stream : All().all)
      if (stream->context == context) points.push_back({stream->queue, stream->queue->last()});
  }
  for (const Point& point : points) point.Wait();
}

CUresult BeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  std::lock_guard lock(StreamsMutex());
  if (stream->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->mode = mode;
  stream->capture->issued[stream] = 0;
  All().captures.push_back(stream->capture);
  OwnCaptures().push_back(stream->capture.get());
  return CUDA_SUCCESS;
}

CUresult EndCapture(CUstream stream, CUgraph* graph) {
  std::lock_guard lock(StreamsMutex());
  const std::shared_ptr<Capture> capture = stream->capture;
  if (!capture || capture->origin != stream) return CUDA_ERROR_ILLEGAL_STATE;
  auto& own = OwnCaptures();
  const auto begun_here = std::find(own.begin(), own.end(), capture.get());
  if (begun_here == own.end() && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED)
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  if (begun_here != own.end()) own.erase(begun_here);
  bool joined = true;
  for (const auto& [member, issued] : capture->issued)
    joined &= issued == 0 || stream->covered[member] == issued;
  for (const CUstream member : All().all)
    if (member->capture == capture) {
      member->capture = nullptr;
      member->covered.clear();
    }
  auto& captures = All().captures;
  captures.erase(std::find(captures.begin(), captures.end(), capture));
  if (capture->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (!joined) return CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
  *graph = new CUgraph_st{std::move(capture->work)};
  return CUDA_SUCCESS;
}

}  // namespace ultraep::fake_cuda

CUresult fake_cuda_enqueue(CUstream handle, void (*run)(void*), void* argument) {
  using namespace ultraep::fake_cuda;
  const CUcontext context = CurrentContext();
  const CUstream stream = context ? FindStream(context, handle) : nullptr;
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  return Issue(stream, [run, argument] { run(argument); });
}
