// Sockets made inside a pod's network namespace and handed to Node as descriptors. Marked as the ztunnel's own by a
// sk_storage entry written through the descriptor before the first packet, which nobody in the pod can forge.
#pragma once

#include <napi.h>

namespace sidestep {

/** connectTcp(netns, options) -> Promise<OwnedFd> of a connected, non-blocking socket. */
Napi::Value ConnectTcp(const Napi::CallbackInfo& info);
/** listenTcp(netns, options) -> Promise<OwnedFd> */
Napi::Value ListenTcp(const Napi::CallbackInfo& info);
/** bindUdp(netns, options) -> Promise<OwnedFd> */
Napi::Value BindUdp(const Napi::CallbackInfo& info);
/** tcpInfo(fd: number) -> TCP_INFO bytes as the kernel gives them (struct tcp_info). */
Napi::Value TcpInfo(const Napi::CallbackInfo& info);

}  // namespace sidestep
