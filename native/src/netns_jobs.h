// What is asked of, or set in, a pod's network namespace: its cookie, its links, the way back for delivered connections,
// and its live sockets.
#pragma once

#include <napi.h>

namespace sidestep {

/** netnsInfo(netns) -> Promise<{cookie: bigint, inode: bigint}> */
Napi::Value NetnsInfo(const Napi::CallbackInfo& info);
/** netnsLinks(netns) -> Promise<{index, peerIndex, name, isUp}[]>; peerIndex is the veth's other end, 0 if none. */
Napi::Value NetnsLinks(const Napi::CallbackInfo& info);
/** netnsAddresses(netns) -> Promise<{index, ip}[]> of global scope; index is the interface's. */
Napi::Value NetnsAddresses(const Napi::CallbackInfo& info);
/** setReturnPath(netns, {mark, table, priority, install: boolean}) -> Promise<void> */
Napi::Value SetReturnPath(const Napi::CallbackInfo& info);
/** linkCreateIn(netns, program, ifindex, attachType) -> Promise<OwnedFd>: a link whose target is named in that namespace. */
Napi::Value LinkCreateIn(const Napi::CallbackInfo& info);
/** listSockets(netns) -> Promise<{source, destination: {ip, port}, cookie: bigint, mark}[]> of established TCP. */
Napi::Value ListSockets(const Napi::CallbackInfo& info);
/** destroySocket(netns, {source, destination}) -> Promise<boolean>: whether there was one. SOCK_DESTROY. */
Napi::Value DestroySocket(const Napi::CallbackInfo& info);

}  // namespace sidestep
