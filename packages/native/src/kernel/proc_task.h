// Threads, children and names of a process.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Thread ids in ascending order; nullopt: gone. Threads may come and go while the list is made, so
// whoever must have all of them asks until nothing new appears.
std::optional<std::vector<pid_t>> list_threads(pid_t pid);

// Children that thread `tid` of `pid` is the parent of; nullopt: gone, or a kernel without
// CONFIG_PROC_CHILDREN. Only certain to be complete while the children stand still.
std::optional<std::vector<pid_t>> list_children(pid_t pid, pid_t tid);

// Name of a thread, up to 15 bytes of anything, newlines too; nullopt: gone.
std::optional<std::string> thread_name(pid_t pid, pid_t tid);

// Arguments as the process started with them or has overwritten them since; empty for a kernel
// thread or a zombie; nullopt: gone.
std::optional<std::vector<std::string>> command_line(pid_t pid);

// What /proc/PID/exe leads to, with " (deleted)" where that is so; nullopt: gone, or a kernel
// thread or zombie. Throws PERMISSION where the caller may not trace the process.
std::optional<std::string> executable(pid_t pid);

// Pure part of command_line: the arguments in a NUL-separated list.
std::vector<std::string> parse_command_line(std::string_view text);

// Pure part of list_children: throws SYSTEM when malformed.
std::vector<pid_t> parse_children(std::string_view text);

}  // namespace sluice
