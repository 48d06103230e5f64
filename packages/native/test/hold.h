// Code that has known values in every register (general, flags, x87, SSE, AVX, AVX-512, AMX), in
// its red zone and above it on the stack, and tells afterwards what became of them. It runs in a
// child; `g_hold` is at the same address in the parent, who reads and writes it from outside.
#pragma once

#include <cstdint>
#include <string>

#include "target/target_memory.h"

namespace sluice::test {

inline constexpr int kGeneralRegisters = 15;  // all but the stack pointer

struct HoldState {
  uint64_t want[kGeneralRegisters];
  uint64_t got[kGeneralRegisters];
  uint64_t stack_pointer;
  uint64_t in_call;       // make one system call instead of spinning
  uint64_t features;      // components of the extended state
  uint64_t rounds;        // of spinning
  uint64_t stop;          // ends spinning
  uint64_t wrong_inside;  // a check while spinning failed
  uint64_t wrong_red_zone;
  uint64_t call_returned;
  alignas(64) uint8_t extended_want[16384];
  alignas(64) uint8_t extended_got[16384];
};
extern "C" HoldState sluice_test_hold_state;

struct HeldCall {
  long number = 0;
  uint64_t args[6] = {};
};

// What these found, for the parent to read.
struct HoldReport {
  char wrong[512];
};

// Whether this processor and kernel have AMX.
bool may_use_tiles();
// Fills all registers with what `seed` gives and spins until told to stop. "" or what was wrong.
std::string hold_and_spin(uint64_t seed, bool with_tiles = false);
// The same around one system call; its result is for the caller to judge.
std::string hold_in_call(uint64_t seed, const HeldCall& call, long* result);

// From the parent: waits until the child spins, or spins on; lets it stop.
void wait_spinning(const TargetMemory& memory);
void stop_spinning(const TargetMemory& memory);

}  // namespace sluice::test
