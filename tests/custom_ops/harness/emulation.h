// Runs a CUDA kernel on the host: every block of its grid one after another, every thread of a
// block as a fiber that runs from barrier to barrier.
//
// A barrier that is missing lets a thread run ahead of the others, and one that runs ahead too far
// reads what is not written yet. So blocks are run in several orders of their threads, and shared
// memory is filled with rubbish before each. Threads that do not all come to the same barrier end
// the program, as on a device they would hang.
#pragma once

#include <ucontext.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/device.h"

namespace harness {

// Tells the address sanitizer, where there is one, that another stack is used from here on.
inline void leave_stack([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* to,
                        [[maybe_unused]] std::size_t size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake_stack, to, size);
#endif
}
inline void enter_stack([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** from,
                        [[maybe_unused]] std::size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, from, size);
#endif
}

enum class Order { ascending, descending, shuffled };

[[noreturn]] inline void die(const std::string& why) {
  std::fprintf(stderr, "cuda_harness: %s\n", why.c_str());
  std::exit(2);
}

// One place in the sources where threads wait; line 0: nowhere.
struct Place {
  const char* file = "";
  unsigned line = 0;

  bool operator==(const Place&) const = default;

  // "block_sums.h:24"
  std::string text() const {
    const std::string path = file;
    return path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
  }
};

// What the program was told and what it saw.
struct Record {
  std::string skipped_file;  // a place whose barrier does nothing: a planted fault
  unsigned skipped_line = 0;
  std::map<std::string, std::set<std::string>> barriers;  // of every kernel
  std::map<std::string, std::vector<std::int64_t>> blocks;  // of every launch of every kernel
};

class Fibers;

// A kernel's surroundings.
class HostBlock {
 public:
  HostBlock(Fibers& fibers, std::int64_t block, std::int64_t blocks, unsigned thread,
            unsigned threads)
      : fibers_(fibers), block_(block), blocks_(blocks), thread_(thread), threads_(threads) {}

  std::int64_t block() const { return block_; }
  std::int64_t blocks() const { return blocks_; }
  unsigned thread() const { return thread_; }
  unsigned threads() const { return threads_; }
  void sync(std::source_location where = std::source_location::current()) const;

 private:
  Fibers& fibers_;
  std::int64_t block_;
  std::int64_t blocks_;
  unsigned thread_;
  unsigned threads_;
};

// The threads of one block.
class Fibers {
 public:
  Fibers(unsigned threads, Record& record, std::string kernel)
      : record_(record), kernel_(std::move(kernel)), fibers_(threads) {
    for (Fiber& fiber : fibers_) fiber.stack = std::make_unique_for_overwrite<char[]>(kStack);
  }

  // Runs body(thread) on every thread of a block.
  template <class Body>
  void run(const std::vector<unsigned>& order, const Body& body) {
    body_ = [](void* opaque, unsigned thread) {
      (*static_cast<const Body*>(opaque))(thread);
    };
    state_ = const_cast<void*>(static_cast<const void*>(&body));
    for (Fiber& fiber : fibers_) start(fiber);
    for (;;) {
      Place place;
      unsigned ended = 0;
      for (const unsigned thread : order) {
        resume(thread);
        const Fiber& fiber = fibers_[thread];
        if (fiber.ended) ++ended;
        if (thread == order.front()) place = fiber.waits_at;
        if (place != fiber.waits_at) {
          die(kernel_ + ": threads wait at " + place.text() + " and at " + fiber.waits_at.text() +
              " (:0 is the end)");
        }
      }
      if (ended == fibers_.size()) return;
      places_.insert({place.file, place.line});
    }
  }

  ~Fibers() {
    for (const auto& [file, line] : places_) record_.barriers[kernel_].insert(Place{file, line}.text());
  }
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;

  void wait(const Place& place) {
    if (place.line == record_.skipped_line &&
        std::string_view(place.file).ends_with(record_.skipped_file)) {
      return;
    }
    fibers_[current_].waits_at = place;
    leave();
  }

 private:
  static constexpr std::size_t kStack = 1 << 16;

  struct Fiber {
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    Place waits_at;
    bool ended = false;
    void* fake_stack = nullptr;
  };

  void start(Fiber& fiber) {
    fiber.ended = false;
    fiber.fake_stack = nullptr;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    const auto self = reinterpret_cast<std::uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(&Fibers::enter), 2,
                static_cast<unsigned>(self), static_cast<unsigned>(self >> 32));
  }

  static void enter(unsigned low, unsigned high) {
    auto* self = reinterpret_cast<Fibers*>(std::uintptr_t{high} << 32 | low);
    enter_stack(nullptr, &self->outer_stack_, &self->outer_size_);
    Fiber& fiber = self->fibers_[self->current_];
    self->body_(self->state_, self->current_);
    fiber.waits_at = {};
    fiber.ended = true;
    // No fake stack to keep: this fiber does not come back.
    leave_stack(nullptr, self->outer_stack_, self->outer_size_);
    setcontext(&self->outer_);
  }

  // From the scheduler to a thread, until its next barrier or its end.
  void resume(unsigned thread) {
    current_ = thread;
    Fiber& fiber = fibers_[thread];
    void* fake_stack = nullptr;
    leave_stack(&fake_stack, fiber.stack.get(), kStack);
    swapcontext(&outer_, &fiber.context);
    enter_stack(fake_stack, nullptr, nullptr);
  }

  // From a thread to the scheduler.
  void leave() {
    Fiber& fiber = fibers_[current_];
    leave_stack(&fiber.fake_stack, outer_stack_, outer_size_);
    swapcontext(&fiber.context, &outer_);
    enter_stack(fiber.fake_stack, &outer_stack_, &outer_size_);
  }

  Record& record_;
  std::string kernel_;
  std::set<std::pair<const char*, unsigned>> places_;
  std::vector<Fiber> fibers_;
  unsigned current_ = 0;
  void (*body_)(void*, unsigned) = nullptr;
  void* state_ = nullptr;
  ucontext_t outer_;
  const void* outer_stack_ = nullptr;
  std::size_t outer_size_ = 0;
};

inline void HostBlock::sync(std::source_location where) const {
  fibers_.wait({where.file_name(), where.line()});
}

inline std::vector<unsigned> thread_order(unsigned threads, Order order) {
  std::vector<unsigned> numbers(threads);
  for (unsigned i = 0; i < threads; ++i) numbers[i] = i;
  if (order == Order::descending) std::reverse(numbers.begin(), numbers.end());
  if (order == Order::shuffled) {
    std::uint64_t state = 1;
    for (unsigned i = threads; i > 1; --i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      std::swap(numbers[i - 1], numbers[(state >> 33) % i]);
    }
  }
  return numbers;
}

// What CudaLaunch does, here.
class Launch {
 public:
  Launch(Record& record, Order order, std::int64_t most)
      : record_(record), order_(order), most_(most) {}

  template <class Kernel>
  spatialonnx::CudaStatus operator()(Kernel, const typename Kernel::Arguments& arguments) const {
    const std::int64_t blocks = std::min(Kernel::blocks(arguments), most_);
    record_.blocks[Kernel::kName].push_back(blocks);
    if (blocks == 0) return {};
    Fibers fibers(Kernel::kThreads, record_, Kernel::kName);
    const std::vector<unsigned> order = thread_order(Kernel::kThreads, order_);
    for (std::int64_t i = 0; i < blocks; ++i) {
      const std::int64_t number = order_ == Order::descending ? blocks - 1 - i : i;
      const auto shared = std::make_unique<typename Kernel::Shared>();
      std::memset(static_cast<void*>(shared.get()), 0xa5, sizeof(typename Kernel::Shared));
      fibers.run(order, [&](unsigned thread) {
        const HostBlock block(fibers, number, blocks, thread, Kernel::kThreads);
        Kernel::run(block, arguments, *shared);
      });
    }
    return {};
  }

 private:
  Record& record_;
  Order order_;
  std::int64_t most_;
};

}  // namespace harness
