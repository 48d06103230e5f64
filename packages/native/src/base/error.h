// The one exception type of the native layer. A code is part of the public API: it reaches users
// as ERR_SLUICE_<code>, so codes are added, never renamed.
#pragma once

#include <sys/types.h>

#include <cstring>
#include <exception>
#include <string>
#include <utility>

namespace sluice {

class Error : public std::exception {
 public:
  // `code` without its prefix, like "NO_SUCH_PROCESS"; `call` the system call that failed, or "";
  // `err` its errno (positive), or 0; `detail` a sentence for people.
  Error(const char* code, pid_t pid, const char* call, int err, std::string detail)
      : code_(code), call_(call), pid_(pid), err_(err), detail_(std::move(detail)) {
    message_ = detail_;
    if (err_ != 0) {
      message_ += std::string(" (") + call_ + ": " + std::strerror(err_) + ")";
    }
  }

  const char* what() const noexcept override { return message_.c_str(); }
  const std::string& code() const { return code_; }
  const std::string& call() const { return call_; }
  pid_t pid() const { return pid_; }
  int err() const { return err_; }
  const std::string& detail() const { return detail_; }
  bool is(const char* code) const { return code_ == code; }

 private:
  std::string code_;
  std::string call_;
  pid_t pid_;
  int err_;
  std::string detail_;
  std::string message_;
};

}  // namespace sluice
