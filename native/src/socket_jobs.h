// Sockets made inside a pod's network namespace and handed to Node as descriptors. Marked as the ztunnel's own by a
// sk_storage entry written through the descriptor before the first packet, which nobody in the pod can forge.
#pragma once

#include <napi.h>

namespace sidestep {

/** connectTcp(netns, options) -> Promise<OwnedFd> of a connected, non-blocking socket. */
Napi::Value ConnectTcp(const Napi::CallbackInfo& info);
/** makeTcpSockets(netns, isIp6, count) -> Promise<OwnedFd[]>: not bound, not connected; fewer where descriptors run out. */
Napi::Value MakeTcpSockets(const Napi::CallbackInfo& info);
/** connectMade(socket, options) -> 0 connected, 1 under way, 2 its port is taken; throws what failed. Never waits. */
Napi::Value ConnectMade(const Napi::CallbackInfo& info);
/** awaitConnect(socket, timeoutMs) -> Promise<OwnedFd> of the same socket, connected; the one given is the caller's to close. */
Napi::Value AwaitConnect(const Napi::CallbackInfo& info);
/** listenTcp(netns, options) -> Promise<OwnedFd> */
Napi::Value ListenTcp(const Napi::CallbackInfo& info);
/** bindUdp(netns, options) -> Promise<OwnedFd> */
Napi::Value BindUdp(const Napi::CallbackInfo& info);
/** tcpInfo(fd: number) -> TCP_INFO bytes as the kernel gives them (struct tcp_info). */
Napi::Value TcpInfo(const Napi::CallbackInfo& info);
/** tcpInfoInto(fd: number, into) -> how many bytes of it there are; without a buffer of its own for each call. */
Napi::Value TcpInfoInto(const Napi::CallbackInfo& info);

}  // namespace sidestep
