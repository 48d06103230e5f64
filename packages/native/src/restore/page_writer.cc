#include "restore/page_writer.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "kernel/proc_file.h"
#include "kernel/syscalls.h"

namespace sluice {

PageWriter::PageWriter(const TargetMemory& memory, const std::vector<WantedVma>& wanted,
                       MappingCalls* calls)
    : memory_(memory), wanted_(wanted), calls_(calls) {
  const long fd =
      sys::call(SYS_openat, AT_FDCWD, proc_path(memory_.pid(), "mem").c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    throw Error("PERMISSION", memory_.pid(), "openat", static_cast<int>(-fd),
                "its memory may not be written by this user");
  }
  mem_.reset(static_cast<int>(fd));
}

void PageWriter::require_forced_write(const std::vector<PageRange>& stored) const {
  for (const WantedVma& vma : wanted_) {
    if (!vma.is_private() || vma.mapping.writable) {
      continue;
    }
    const auto run =
        std::lower_bound(stored.begin(), stored.end(), vma.mapping.start,
                         [](const PageRange& range, uint64_t start) { return range.end <= start; });
    if (run == stored.end() || run->start >= vma.mapping.end) {
      continue;
    }
    const RemotePtr at(std::max(run->start, vma.mapping.start));
    uint64_t word = 0;
    if (!memory_.read(at, &word, sizeof word)) {
      continue;
    }
    if (!write_memory(at, &word, sizeof word)) {
      throw Error("PERMISSION", memory_.pid(), "pwrite64", EIO,
                  "its read-only memory may not be written");
    }
    return;
  }
}

void PageWriter::open_shared(const MappedFiles& files) {
  for (const WantedVma& vma : wanted_) {
    if (vma.mapping.shared && !vma.mapping.writable && vma.is_object() &&
        !files.withholds(vma.mapping, Ask::kNo)) {
      ScopedFd fd = open_mapped(vma, O_RDWR);
      if (fd) {
        shared_files_.emplace(&vma, std::move(fd));
      }
    }
  }
}

std::vector<PageRange> PageWriter::fixed() const {
  std::vector<PageRange> fixed;
  for (const WantedVma& vma : wanted_) {
    const bool read_only =
        vma.mapping.shared && !vma.mapping.writable && !shared_files_.contains(&vma);
    if (vma.kind == VmaKind::kVdso || (read_only && vma.kind != VmaKind::kExcluded)) {
      fixed.push_back(vma.range());
    }
  }
  return fixed;
}

ScopedFd PageWriter::open_mapped(const WantedVma& vma, int flags) const {
  for (const Mapping& mapping : read_maps(memory_.pid())) {
    if (mapping.end <= vma.mapping.start || mapping.start >= vma.mapping.end ||
        !maps_same(mapping, vma.mapping)) {
      continue;
    }
    char name[64];
    snprintf(name, sizeof name, "map_files/%lx-%lx", mapping.start, mapping.end);
    const long fd = sys::call(SYS_openat, AT_FDCWD, proc_path(memory_.pid(), name).c_str(),
                              flags | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
      return ScopedFd(static_cast<int>(fd));
    }
  }
  return ScopedFd();
}

const WantedVma& PageWriter::vma_at(uint64_t address) const {
  const auto after =
      std::upper_bound(wanted_.begin(), wanted_.end(), address,
                       [](uint64_t at, const WantedVma& vma) { return at < vma.mapping.start; });
  if (after == wanted_.begin() || std::prev(after)->mapping.end <= address) {
    throw Error("RESTORE_INCOMPLETE", memory_.pid(), "", 0, "a page is in no mapping");
  }
  return *std::prev(after);
}

uint64_t PageWriter::write(const std::vector<PageRange>& ranges, std::span<const uint8_t> bytes) {
  uint64_t written = 0;
  size_t used = 0;
  for (const PageRange& range : ranges) {
    for (uint64_t at = range.start; at < range.end;) {
      const WantedVma& vma = vma_at(at);
      const uint64_t end = std::min(range.end, vma.mapping.end);
      if (used + (end - at) > bytes.size()) {
        throw Error("OPTION", memory_.pid(), "", 0, "bytes are missing");
      }
      written += write_range(vma, {at, end}, bytes.data() + used);
      used += end - at;
      at = end;
    }
  }
  return written;
}

uint64_t PageWriter::write_range(const WantedVma& vma, PageRange range, const uint8_t* bytes) {
  if (vma.mapping.shared || vma.kind == VmaKind::kVdso) {
    return write_shared(vma, range, bytes);
  }
  if (!write_memory(RemotePtr(range.start), bytes, range.bytes())) {
    // Guard pages that were not there then.
    calls_->remove_guards(range);
    if (!write_memory(RemotePtr(range.start), bytes, range.bytes())) {
      throw Error("SYSTEM", memory_.pid(), "pwrite64", EIO,
                  describe_range(range, vma.mapping) + " could not be written");
    }
  }
  return range.pages();
}

// Only pages that differ: others use the object as well.
uint64_t PageWriter::write_shared(const WantedVma& vma, PageRange range, const uint8_t* bytes) {
  std::vector<uint8_t> now(range.bytes());
  const bool readable = memory_.read(RemotePtr(range.start), now.data(), now.size());
  const auto object = shared_files_.find(&vma);
  uint64_t written = 0;
  for (uint64_t at = range.start; at < range.end; at += kPageBytes) {
    const uint8_t* page = bytes + (at - range.start);
    if (readable && std::memcmp(now.data() + (at - range.start), page, kPageBytes) == 0) {
      continue;
    }
    bool done = false;
    if (object != shared_files_.end()) {
      const uint64_t offset = vma.mapping.offset + (at - vma.mapping.start);
      // Not beyond the end of a file, which would make it longer.
      const uint64_t left = vma.file && vma.file->bytes > offset ? vma.file->bytes - offset : 0;
      const uint64_t part = std::min(kPageBytes, left);
      done = sys::call_restarting(SYS_pwrite64, object->second.get(), page, part, offset) ==
             static_cast<long>(part);
    } else {
      done = write_memory(RemotePtr(at), page, kPageBytes);
    }
    if (!done) {
      throw Error("SYSTEM", memory_.pid(), "pwrite64", EIO,
                  describe_range({at, at + kPageBytes}, vma.mapping) + " could not be written");
    }
    ++written;
  }
  return written;
}

bool PageWriter::write_memory(RemotePtr to, const void* from, size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    const long result =
        sys::call_restarting(SYS_pwrite64, mem_.get(), static_cast<const uint8_t*>(from) + done,
                             bytes - done, to.value() + done);
    if (result <= 0) {
      return false;
    }
    done += static_cast<size_t>(result);
  }
  return true;
}

}  // namespace sluice
