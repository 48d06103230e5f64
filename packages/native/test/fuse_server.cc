#include "fuse_server.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <cstring>

#include "base/page_range.h"
#include "base/scoped_fd.h"

namespace sluice::test {
namespace {

constexpr uint64_t kFirstFile = 2;
constexpr uint64_t kFiles = 8;
// Who asks in vain gets an error then, so that a test which has failed comes to its end.
constexpr unsigned kMostWaitSeconds = 20;

void reply(int fuse, uint64_t unique, int error, const void* data = nullptr, size_t bytes = 0) {
  std::string out(sizeof(fuse_out_header) + bytes, '\0');
  const fuse_out_header header{static_cast<uint32_t>(out.size()), -error, unique};
  std::memcpy(out.data(), &header, sizeof header);
  if (bytes > 0) {
    std::memcpy(out.data() + sizeof header, data, bytes);
  }
  (void)!::write(fuse, out.data(), out.size());
}

fuse_attr attributes_of(uint64_t node) {
  fuse_attr attributes{};
  attributes.ino = node;
  attributes.size = FuseServer::kFilePages * kPageBytes;
  attributes.mode = node >= kFirstFile ? S_IFREG | 0666 : S_IFDIR | 0777;
  attributes.nlink = 1;
  return attributes;
}

uint64_t node_of(const char* name) {
  const auto number = static_cast<uint64_t>(name[0] - 'a');
  return number < kFiles && name[1] == '\0' ? kFirstFile + number : 0;
}

}  // namespace

FuseServer::FuseServer() {
  ScopedFd fuse(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  char options[128];
  snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse.get());
  if (!fuse ||
      ::mount("sluice-test", dir_.path().c_str(), "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
    SKIP("no FUSE");
  }
  server_.emplace([] {},
                  [fd = fuse.get(), state = &*state_] {
                    serve(fd, state);
                    return 0;
                  });
}

FuseServer::~FuseServer() {
  // The end of the server ends all that waits for it.
  server_.reset();
  ::umount2(dir_.path().c_str(), MNT_DETACH);
}

void FuseServer::serve(int fuse, State* state) {
  static std::array<char, 1 << 17> request;
  while (::read(fuse, request.data(), request.size()) > 0) {
    const auto* const in = reinterpret_cast<const fuse_in_header*>(request.data());
    const char* const argument = request.data() + sizeof *in;
    if (in->opcode == FUSE_INTERRUPT || in->opcode == FUSE_FORGET ||
        in->opcode == FUSE_BATCH_FORGET) {
      continue;
    }
    // Nobody waits to be told that a file was released; it may have been before the server hung.
    if (state->hangs && in->opcode != FUSE_RELEASE) {
      ++state->unanswered;
      ::alarm(kMostWaitSeconds);
      continue;
    }
    const auto bit_of = [](uint64_t node) { return uint32_t{1} << (node % 32); };
    if (in->opcode == FUSE_INIT) {
      fuse_init_out out{};
      out.major = FUSE_KERNEL_VERSION;
      out.minor = FUSE_KERNEL_MINOR_VERSION;
      out.max_write = kPageBytes;
      reply(fuse, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_LOOKUP) {
      fuse_entry_out out{};
      out.nodeid = node_of(argument);
      out.attr = attributes_of(out.nodeid);
      const bool found = out.nodeid != 0 && (state->removed & bit_of(out.nodeid)) == 0;
      reply(fuse, in->unique, found ? 0 : ENOENT, &out, found ? sizeof out : 0);
    } else if (in->opcode == FUSE_GETATTR) {
      fuse_attr_out out{};
      out.attr = attributes_of(in->nodeid);
      reply(fuse, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_OPEN) {
      fuse_open_out out{};
      out.open_flags = FOPEN_KEEP_CACHE;
      reply(fuse, in->unique, 0, &out, sizeof out);
    } else if (in->opcode == FUSE_READ) {
      const auto* const wanted = reinterpret_cast<const fuse_read_in*>(argument);
      const uint64_t end = kFilePages * kPageBytes;
      const uint64_t from = std::min<uint64_t>(wanted->offset, end);
      const std::string bytes(std::min<uint64_t>(wanted->size, end - from),
                              static_cast<char>('a' + (in->nodeid - kFirstFile)));
      reply(fuse, in->unique, 0, bytes.data(), bytes.size());
    } else if (in->opcode == FUSE_UNLINK) {
      state->removed |= bit_of(node_of(argument));
      reply(fuse, in->unique, 0);
    } else {
      reply(fuse, in->unique, in->opcode == FUSE_RELEASE ? 0 : ENOSYS);
    }
  }
}

}  // namespace sluice::test
