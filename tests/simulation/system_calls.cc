// The waits of the simulated threads that do not ask test::World: the program's own definitions take
// the place of the C library's. Outside of a simulated thread they do what the library does.
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tests/simulation/world.h"

using ultraep::simulation::World;

namespace {

constexpr size_t kSignalSetBytes = 8;  // the kernel's, not the library's

}  // namespace

extern "C" {

int ppoll(pollfd* fds, nfds_t count, const timespec* limit, const sigset_t* mask) {
  timespec left = limit ? *limit : timespec{};
  const int ready = int(syscall(SYS_ppoll, fds, count, limit ? &left : nullptr, mask,
                                kSignalSetBytes));
  // PollUntil sleeps next.
  if (World* world = World::Running(); world && ready == 0) world->WillWaitFor(fds, count);
  return ready;
}

int epoll_wait(int epoll, epoll_event* events, int most, int timeout_ms) {
  World* world = World::Running();
  auto look = [&](int ms) {
    return int(syscall(SYS_epoll_pwait, epoll, events, most, ms, nullptr, kSignalSetBytes));
  };
  if (!world) return look(timeout_ms);
  const uint64_t now = world->Now();
  const uint64_t deadline = timeout_ms < 0
                                ? ultraep::simulation::kForever
                                : now + uint64_t(timeout_ms) * ultraep::simulation::kMillisecond;
  for (;;) {
    const int ready = look(0);
    if (ready || world->Now() >= deadline) return ready;
    const pollfd wait{epoll, POLLIN, 0};
    world->WillWaitFor(&wait, 1);
    world->SleepUntil(deadline);
  }
}

int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  if (World* world = World::Running()) {
    world->Lock(mutex);
    return 0;
  }
  if (pthread_mutex_trylock(mutex)) {  // there is only one thread
    std::fprintf(stderr, "simulation: a killed thread has kept a mutex\n");
    std::abort();
  }
  return 0;
}

}  // extern "C"
