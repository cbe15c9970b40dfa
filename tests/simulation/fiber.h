// A stack of its own inside the one thread of a simulation. It runs until it yields; nothing else
// runs meanwhile, so a run is the same every time.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdlib>
#include <functional>
#include <utility>
#include <vector>

namespace ultraep::simulation {

class Fiber {
 public:
  // `body` must not let an exception out.
  explicit Fiber(std::function<void()> body) : body_(std::move(body)), stack_(TakeStack()) {}
  ~Fiber() { FreeStacks().push_back(stack_); }
  Fiber(const Fiber&) = delete;

  // Runs the body until it yields or ends. Never from within a fiber.
  void Resume() {
    if (_setjmp(outside_)) return;
    if (started_) _longjmp(inside_, 1);
    started_ = true;
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    Starting() = this;
    makecontext(&context_, &Fiber::Begin, 0);
    setcontext(&context_);
  }
  // Back to whoever resumed this fiber; from inside its body only. Plain jumps: swapcontext would
  // pay two system calls for signal masks, which nobody changes.
  void Yield() {
    if (!_setjmp(inside_)) _longjmp(outside_, 1);
  }
  bool done() const { return done_; }

 private:
  static constexpr size_t kStackBytes = 256 * 1024;

  static void Begin() {
    Fiber* self = Starting();
    self->body_();
    self->done_ = true;
    _longjmp(self->outside_, 1);
  }
  static Fiber*& Starting() {
    static Fiber* one = nullptr;
    return one;
  }
  // Reused over runs: fresh stacks would fault in every page again.
  static std::vector<void*>& FreeStacks() {
    static std::vector<void*> all;
    return all;
  }
  static void* TakeStack() {
    if (!FreeStacks().empty()) {
      void* last = FreeStacks().back();
      FreeStacks().pop_back();
      return last;
    }
    void* at = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (at == MAP_FAILED) std::abort();
    mprotect(at, 4096, PROT_NONE);  // an overflow faults instead of scribbling
    return at;
  }

  std::function<void()> body_;
  void* const stack_;
  ucontext_t context_;
  jmp_buf inside_, outside_;
  bool started_ = false, done_ = false;
};

}  // namespace ultraep::simulation
