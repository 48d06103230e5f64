// 64 threads, each in a function of its own, for debuggers: half of them wait deep in calls, half
// count all the time. Usage: functions64
//
// Each thread counts turns in a variable on its stack, then in an object on the heap, then in a
// global, in this order. So at every instant none of the three is ahead of the one before it, and
// none is behind by more than one: a memory image that is of no one instant does not have that.
#include <time.h>
#include <unistd.h>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr int kThreads = 64;
constexpr int kTurnsBetweenNaps = 1000;

struct Job {
  uint64_t magic;
  volatile uint64_t turn;
  std::string name;
};

struct Local {
  uint64_t magic;
  volatile uint64_t turn;
};

}  // namespace

// Not in a namespace, so that a debugger finds them by their names.
volatile uint64_t g_turns[kThreads];
volatile bool g_ending;
volatile int g_entered;
std::mutex g_mutex;
std::condition_variable g_end;

template <int N>
[[gnu::noinline]] bool wait_here(Local* local, Job* job) {
  local->turn = N;
  job->turn = N;
  g_turns[N] = N;
  std::unique_lock<std::mutex> lock(g_mutex);
  g_entered = g_entered + 1;
  g_end.wait(lock, [] { return g_ending; });
  return local->turn == job->turn;
}

template <int N>
[[gnu::noinline]] bool count_here(Local* local, Job* job) {
  {
    std::unique_lock<std::mutex> lock(g_mutex);
    g_entered = g_entered + 1;
  }
  while (!g_ending) {
    for (int i = 0; i < kTurnsBetweenNaps; ++i) {
      const uint64_t next = local->turn + 1;
      local->turn = next;
      job->turn = next;
      g_turns[N] = next;
    }
    const timespec nap{0, 1000000};
    nanosleep(&nap, nullptr);
  }
  return local->turn == job->turn;
}

template <int N>
[[gnu::noinline]] void run(bool* fine) {
  Local local{0xabcdef00u + N, 0};
  const auto job = std::make_unique<Job>(Job{0x12345600u + N, 0, "job " + std::to_string(N)});
  Job* volatile object = job.get();  // in memory, for debuggers
  *fine = N % 2 == 0 ? wait_here<N>(&local, object) : count_here<N>(&local, object);
}

template <size_t... N>
std::array<void (*)(bool*), kThreads> functions(std::index_sequence<N...>) {
  return {run<static_cast<int>(N)>...};
}

int main() {
  bool fine[kThreads] = {};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back(functions(std::make_index_sequence<kThreads>())[i], &fine[i]);
  }
  for (;;) {
    const std::unique_lock<std::mutex> lock(g_mutex);
    if (g_entered == kThreads) break;
  }
  std::cout << "{\"ready\":true,\"pid\":" << getpid() << "}" << std::endl;
  std::string line;
  while (std::getline(std::cin, line) && line != "exit") {
    const uint64_t before = g_turns[1];
    while (g_turns[1] == before) std::this_thread::yield();
    std::cout << "{\"ok\":true}" << std::endl;
  }
  {
    const std::unique_lock<std::mutex> lock(g_mutex);
    g_ending = true;
  }
  g_end.notify_all();
  for (std::thread& thread : threads) thread.join();
  for (const bool each : fine) {
    if (!each) return 1;
  }
  return 0;
}
