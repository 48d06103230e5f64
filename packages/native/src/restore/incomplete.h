// Errors after which a process is half restored.
#pragma once

#include "base/error.h"

namespace sluice {

inline Error incomplete(const Error& error) {
  if (error.is("RESTORE_INCOMPLETE") || error.is("TARGET_EXITED")) {
    return error;
  }
  return Error("RESTORE_INCOMPLETE", error.pid(), error.call().c_str(), error.err(),
               "it is half restored: " + error.detail());
}

}  // namespace sluice
