// Errors after which the memory of a process is half restored.
#pragma once

#include "base/error.h"

namespace sluice {

inline Error incomplete(const Error& error) {
  if (error.is("RESTORE_INCOMPLETE") || error.is("TARGET_EXITED")) {
    return error;
  }
  return Error("RESTORE_INCOMPLETE", error.pid(), error.call().c_str(), error.err(),
               "its memory is half restored: " + error.detail());
}

}  // namespace sluice
