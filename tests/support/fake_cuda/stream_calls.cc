// Entry points about streams, events, captures and graphs.
#include "tests/support/fake_cuda/queues.h"

using namespace ultraep::fake_cuda;

#define FAKE_CUDA_STREAM(stream, handle)               \
  FAKE_CUDA_CONTEXT(context);                          \
  const CUstream stream = FindStream(context, handle); \
  if (!stream) return CUDA_ERROR_INVALID_HANDLE

CUresult cuStreamCreate(CUstream* stream, unsigned int flags) {
  FAKE_CUDA_CONTEXT(context);
  *stream = MakeStream(context, (flags & CU_STREAM_NON_BLOCKING) == 0);
  Machine::Get().Count("streams", 1);
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream handle) {
  FAKE_CUDA_STREAM(stream, handle);
  if (stream->legacy) return CUDA_ERROR_INVALID_HANDLE;
  EndStream(stream);
  Machine::Get().Count("streams", -1);
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream handle) {
  FAKE_CUDA_STREAM(stream, handle);
  if (const CUresult result = MayWaitFor(stream); result != CUDA_SUCCESS) return result;
  if (stream->legacy) {  // and what it would wait for
    Point point;
    if (const CUresult result = Issue(
            stream, [] {}, &point);
        result != CUDA_SUCCESS)
      return result;
    point.Wait();
    return CUDA_SUCCESS;
  }
  stream->queue->Wait(stream->queue->last());
  return CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned int flags) {
  FAKE_CUDA_STREAM(stream, handle);
  if (flags != CU_EVENT_WAIT_DEFAULT) return CUDA_ERROR_NOT_SUPPORTED;
  Point point;
  {
    std::lock_guard lock(StreamsMutex());
    if (event->capture) {
      if (stream->capture && stream->capture != event->capture)
        return CUDA_ERROR_STREAM_CAPTURE_MERGE;
      if (stream->legacy) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
      stream->capture = event->capture;
      stream->capture->issued.emplace(stream, 0);
      for (const auto& [member, covered] : event->covered)
        if (uint64_t& own = stream->covered[member]; own < covered) own = covered;
      return CUDA_SUCCESS;
    }
    if (stream->capture) {
      stream->capture->invalid = true;
      return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    point = event->point;
  }
  return Issue(stream, [point] { point.Wait(); });
}

CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* status) {
  FAKE_CUDA_STREAM(stream, handle);
  std::lock_guard lock(StreamsMutex());
  if (stream->legacy && IsCaptureInWay(context)) return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
  *status = !stream->capture           ? CU_STREAM_CAPTURE_STATUS_NONE
            : stream->capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                       : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return CUDA_SUCCESS;
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  FAKE_CUDA_CALLED();
  std::swap(*mode, ThreadMode());
  return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
  FAKE_CUDA_STREAM(stream, handle);
  return BeginCapture(stream, mode);
}

CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
  FAKE_CUDA_STREAM(stream, handle);
  return EndCapture(stream, graph);
}

CUresult cuGraphInstantiate(CUgraphExec* made, CUgraph graph, unsigned long long) {
  FAKE_CUDA_CALLED();
  *made = new CUgraphExec_st{graph->work};
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec graph, CUstream handle) {
  FAKE_CUDA_STREAM(stream, handle);
  for (const Work& work : graph->work)
    if (const CUresult result = Issue(stream, work); result != CUDA_SUCCESS) return result;
  return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec graph) {
  FAKE_CUDA_CALLED();
  delete graph;
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
  FAKE_CUDA_CALLED();
  delete graph;
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned int flags) {
  FAKE_CUDA_CONTEXT(context);
  *event = new CUevent_st{context, (flags & CU_EVENT_DISABLE_TIMING) == 0, {}, {}, {}, {}};
  Machine::Get().Count("events", 1);
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
  FAKE_CUDA_CALLED();
  delete event;
  Machine::Get().Count("events", -1);
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream handle) {
  FAKE_CUDA_STREAM(stream, handle);
  if (event->context != context) return CUDA_ERROR_INVALID_HANDLE;
  {
    std::lock_guard lock(StreamsMutex());
    event->capture = stream->capture;
    event->covered = stream->covered;
    if (stream->capture) return CUDA_SUCCESS;
  }
  const auto stamp = std::make_shared<Stamp>();
  Point point;
  const CUresult result = Issue(
      stream,
      [stamp] {
        std::lock_guard lock(stamp->mutex);
        stamp->at = std::chrono::steady_clock::now();
        stamp->set = true;
      },
      &point);
  if (result != CUDA_SUCCESS) return result;
  std::lock_guard lock(StreamsMutex());
  event->point = point;
  event->stamp = stamp;
  return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float* milliseconds, CUevent from, CUevent to) {
  FAKE_CUDA_CALLED();
  std::chrono::steady_clock::time_point at[2];
  int i = 0;
  for (const CUevent event : {from, to}) {
    std::lock_guard lock(StreamsMutex());
    if (!event->timed || !event->stamp || event->capture) return CUDA_ERROR_INVALID_HANDLE;
    std::lock_guard of_stamp(event->stamp->mutex);
    if (!event->stamp->set) return CUDA_ERROR_NOT_READY;
    at[i++] = event->stamp->at;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(at[1] - at[0]).count();
  return CUDA_SUCCESS;
}
