#include "restore/descriptor_restorer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "kernel/steps.h"
#include "kernel/syscalls.h"

namespace sluice {
namespace {

constexpr size_t kMostNamed = 10;
// What fcntl(2) can change of an open file.
constexpr uint32_t kStatusFlags = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;
constexpr uint32_t kModeFlags = O_ACCMODE | O_PATH;

// That a file was deleted since does not make it another.
std::string_view plain_path(std::string_view path) {
  constexpr std::string_view kDeleted = " (deleted)";
  return path.ends_with(kDeleted) ? path.substr(0, path.size() - kDeleted.size()) : path;
}

// Of other things a position says nothing, or cannot be set.
bool has_position(int fd) {
  struct stat file{};
  return ::fstat(fd, &file) == 0 && (S_ISREG(file.st_mode) || S_ISDIR(file.st_mode)) &&
         sys::call(SYS_lseek, fd, 0, SEEK_CUR) >= 0;
}

bool is_path(const OpenDescriptor& open) { return open.path.starts_with('/'); }

std::string name_some(const std::vector<const OpenDescriptor*>& descriptors) {
  std::string text;
  for (size_t i = 0; i < std::min(descriptors.size(), kMostNamed); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(descriptors[i]->descriptor) + " (" +
            descriptors[i]->path + ")";
  }
  if (descriptors.size() > kMostNamed) {
    text += " and " + std::to_string(descriptors.size() - kMostNamed) + " more";
  }
  return text;
}

}  // namespace

void DescriptorRestorer::check() {
  changed_.clear();
  present_ = list_descriptors(pid_, std::numeric_limits<size_t>::max());
  auto now = present_.begin();
  for (const OpenDescriptor& then : wanted_) {
    now = std::find_if(now, present_.end(), [&](const OpenDescriptor& open) {
      return open.descriptor >= then.descriptor;
    });
    const auto refuse = [&](const std::string& what) {
      throw Error("RESTORE_MISMATCH", pid_, "", 0,
                  "descriptor " + std::to_string(then.descriptor) + what);
    };
    if (now == present_.end() || now->descriptor != then.descriptor) {
      refuse(" is not open any more; it was " + then.path);
    }
    if (plain_path(now->path) != plain_path(then.path)) {
      refuse(" is " + now->path + " now; it was " + then.path);
    }
    if ((now->flags & kModeFlags) != (then.flags & kModeFlags)) {
      refuse(" (" + then.path + ") is open for other access than it was");
    }
    if (now->position != then.position ||
        (now->flags & kStatusFlags) != (then.flags & kStatusFlags)) {
      changed_.push_back({&then, &*now, ScopedFd(), false});
    }
  }
}

void DescriptorRestorer::take(const ScopedFd& pidfd) {
  for (Changed& changed : changed_) {
    const long fd = sys::call(SYS_pidfd_getfd, pidfd.get(), changed.then->descriptor, 0);
    if (fd < 0) {
      throw Error("PERMISSION", pid_, "pidfd_getfd", static_cast<int>(-fd),
                  "its descriptor " + std::to_string(changed.then->descriptor) +
                      " cannot be put back to where it stood");
    }
    changed.duplicate.reset(static_cast<int>(fd));
    changed.seeks =
        changed.now->position != changed.then->position && has_position(changed.duplicate.get());
  }
}

void DescriptorRestorer::restore() {
  for (const Changed& changed : changed_) {
    const auto& [then, now, duplicate, seeks] = changed;
    const uint32_t other_flags = (now->flags ^ then->flags) & kStatusFlags;
    long result = 0;
    const char* call = "lseek";
    if (seeks) {
      result = sys::call(SYS_lseek, duplicate.get(), then->position, SEEK_SET);
    }
    if (result >= 0 && other_flags != 0) {
      call = "fcntl";
      result = sys::call(SYS_fcntl, duplicate.get(), F_SETFL, then->flags & kStatusFlags);
    }
    if (result < 0) {
      throw Error("SYSTEM", pid_, call, static_cast<int>(-result),
                  "descriptor " + std::to_string(then->descriptor) + " (" + then->path +
                      ") could not be put back to where it stood");
    }
    steps::at(steps::Step::kDescriptorSet);
  }
}

std::vector<std::string> DescriptorRestorer::warnings() const {
  std::vector<const OpenDescriptor*> opened;
  std::vector<const OpenDescriptor*> with_content;
  for (const OpenDescriptor& now : present_) {
    const bool was_there =
        std::any_of(wanted_.begin(), wanted_.end(),
                    [&](const OpenDescriptor& then) { return then.descriptor == now.descriptor; });
    if (!was_there) {
      opened.push_back(&now);
    } else if (!is_path(now)) {
      with_content.push_back(&now);
    }
  }
  std::vector<std::string> texts;
  if (!opened.empty()) {
    texts.push_back("Opened since the dump and left open: descriptors " + name_some(opened));
  }
  if (!with_content.empty()) {
    texts.push_back("What is in pipes, sockets and the like stays as it is now: descriptors " +
                    name_some(with_content));
  }
  return texts;
}

}  // namespace sluice
