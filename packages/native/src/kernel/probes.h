// What this kernel lets this process do. Each probe does the real thing to something of its own (a
// page, a pipe, a child) and says what it found; a version number is never asked. Nothing stays
// behind: no file, no child, no descriptor. A probe throws SYSTEM when it cannot even be tried, for
// want of memory, descriptors or processes; kernel_facts reports that as not ok.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace sluice {

struct Probe {
  bool ok = false;
  // What is special about it when ok, may be empty; else why not and what to do about it.
  std::string detail;
};

struct VmspliceProbe : Probe {
  // False where the kernel copies the bytes: capturing then costs what reading costs.
  bool zero_copy = false;
};

struct PipeSizeProbe : Probe {
  // Largest pipe that this process may make, at most 16 MiB; 0 if none.
  size_t max_bytes = 0;
};

struct DirectIoProbe : Probe {
  // What statx(2) asks for; the page size where the file system does not say.
  size_t memory_align = 4096;
  size_t offset_align = 4096;
  // A write from a page that changes meanwhile may corrupt the file system's checksum or mirror.
  bool needs_stable_pages = false;
};

Probe probe_ptrace_seize();
Probe probe_suspend_seccomp();
Probe probe_pidfd_getfd();
VmspliceProbe probe_vmsplice();
Probe probe_process_vm_readv();
Probe probe_pagemap();
Probe probe_pagemap_scan();
Probe probe_map_files();
Probe probe_uffd_wp_async();
Probe probe_soft_dirty();
Probe probe_kcmp();
// `dir` is where images would go.
DirectIoProbe probe_direct_io(const std::string& dir);
PipeSizeProbe probe_pipe_size();

struct KernelFacts {
  std::string release;
  std::string machine;
  size_t page_size_bytes = 0;
  Probe ptrace_seize;
  Probe pidfd_getfd;
  VmspliceProbe vmsplice;
  Probe process_vm_readv;
  Probe pagemap_scan;
  Probe pagemap;
  Probe map_files;
  Probe uffd_wp_async;
  Probe soft_dirty;
  Probe kcmp;
  Probe suspend_seccomp;
  DirectIoProbe o_direct;
  PipeSizeProbe pipe_size;
};

// Runs all probes: some milliseconds, two of them in a forked child, so the cost grows with the
// caller's own memory.
KernelFacts kernel_facts(const std::string& dir);

// Calls visit(name, probe) for each probe, with the names of KernelProbe in lib/contract.ts.
template <typename Visit>
void for_each_probe(const KernelFacts& facts, Visit visit) {
  visit("ptraceSeize", facts.ptrace_seize);
  visit("pidfdGetfd", facts.pidfd_getfd);
  visit("vmsplice", static_cast<const Probe&>(facts.vmsplice));
  visit("processVmReadv", facts.process_vm_readv);
  visit("pagemapScan", facts.pagemap_scan);
  visit("pagemap", facts.pagemap);
  visit("mapFiles", facts.map_files);
  visit("uffdWpAsync", facts.uffd_wp_async);
  visit("softDirty", facts.soft_dirty);
  visit("kcmp", facts.kcmp);
  visit("suspendSeccomp", facts.suspend_seccomp);
  visit("oDirect", static_cast<const Probe&>(facts.o_direct));
  visit("pipeSize", static_cast<const Probe&>(facts.pipe_size));
}

}  // namespace sluice
