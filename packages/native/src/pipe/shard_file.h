// A shard: one image file, filled front to back with splice(2) from slots; or a file shared with
// other shards, in which each page has its place.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/scoped_fd.h"
#include "pipe/places.h"
#include "pipe/slot.h"

namespace sluice {

enum class IoMode { kAuto, kDirect, kBuffered };

// Where a run of pages of the target went.
struct StoredRun {
  uint64_t address = 0;
  uint32_t pages = 0;
  uint32_t shard = 0;
  uint64_t offset = 0;
};

class ShardFile {
 public:
  // Creates `dir/shard-NNNN.img` (mode 0600), which must not exist, and reserves `preallocate`
  // bytes for it. `moving`: pages may change while they are written and the file system minds, so
  // that kAuto avoids O_DIRECT. Throws DISK_FULL, OUTPUT_NOT_WRITABLE, DIRECT_IO_UNAVAILABLE, IO.
  ShardFile(const std::string& dir, size_t index, IoMode mode, uint64_t preallocate,
            bool moving = false);
  // Writes pages to their places, which outlive it. Throws OUTPUT_NOT_WRITABLE,
  // DIRECT_IO_UNAVAILABLE.
  ShardFile(Places* places, IoMode mode, bool moving = false);

  // Moves all bytes of the slot to the end of the shard, or to their places, and notes where its
  // pages are. Throws DISK_FULL, DIRECT_IO_UNAVAILABLE, IO.
  void append(Slot* slot);
  // Cuts the file to its length; with places there is nothing to cut.
  void cut();
  void sync();
  // CRC32C of each `piece_bytes` of what is stored, read back the way it was written: what is
  // covered is what the file system gives back. The pipe cannot be used for it, since the bytes
  // never pass through this process on their way.
  std::vector<uint32_t> checksum(uint64_t piece_bytes) const;

  const std::string& name() const { return name_; }
  // That were appended.
  uint64_t bytes() const { return bytes_; }
  bool direct() const { return direct_; }
  // Why kAuto did not take O_DIRECT, or "".
  const std::string& io_reason() const { return io_reason_; }
  const std::vector<StoredRun>& runs() const { return runs_; }

 private:
  void open(int flags);
  void choose_io(bool moving);
  void set_direct(bool on);
  long reserve(uint64_t end);
  std::vector<Placed> place(const Slot& slot);
  void note_run(const Placed& placed);
  void move(Slot* slot, uint64_t in_slot, Placed to, uint64_t* in_pipe);
  [[noreturn]] void fail(const char* call, long result, const char* what) const;

  Places* places_ = nullptr;
  std::string path_;
  std::string name_;
  uint32_t index_;
  IoMode mode_;
  ScopedFd fd_;
  uint64_t bytes_ = 0;
  uint64_t reserved_ = 0;
  bool can_reserve_ = true;
  bool direct_ = false;      // the shard is written with O_DIRECT
  bool direct_now_ = false;  // and the flag is set at the moment
  std::string io_reason_;
  std::vector<StoredRun> runs_;
};

// CRC32C of each piece of the first `bytes` of a file. Throws IO.
std::vector<uint32_t> checksum_file(const std::string& path, uint64_t bytes, uint64_t piece_bytes,
                                    bool direct);

}  // namespace sluice
