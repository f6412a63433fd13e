// Which kind of BPF object a descriptor is. The kernel answers BPF_OBJ_GET_INFO_BY_FD in the shape of whatever it finds,
// so a program taken for a map would give sizes that are not sizes.
#pragma once

namespace sidestep {

/** Whether `fd` is a map. Sets errno, to EINVAL if it is something else. */
bool IsBpfMap(int fd);
/** The same for a link. */
bool IsBpfLink(int fd);

}  // namespace sidestep
