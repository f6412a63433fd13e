// The addon's whole surface. Only src/kernel may import it; arguments are validated there. Every failed system call
// throws (or rejects with) what the factory given to `initialise` makes of it.

/** A file descriptor that closes with its object, or with the environment, if close() was not called. */
export interface OwnedFd {
  /** The descriptor's number, -1 after close or release. */
  readonly fd: number
  /** Gives the number away; the caller closes it. */
  release(): number
  close(): void
}

/** Lives until it is closed or its environment ends, held or not; does not keep the process running. */
export interface RingBuffer {
  close(): void
}

/**
 * A connected or listening unix socket of which no call waits. `onReady` is called once for each arm(). Lives until it is
 * closed or its environment ends, held or not; keeps the process running.
 */
export interface UnixSocket {
  /** `writable` asks for room to write, too. */
  arm(writable: boolean): void
  accept(): OwnedFd | undefined
  /** Bytes taken from `offset` on, or -1 where there is no room now. The descriptors go with the first of them. */
  send(bytes: Uint8Array, offset: number, fds: readonly OwnedFd[]): number
  /** Undefined: nothing now; null: the end. Truncated: bytes or descriptors did not fit, and all descriptors are closed. */
  receive(maxBytes: number, maxFds: number): { bytes: Buffer; fds: OwnedFd[]; isTruncated: boolean } | undefined | null
  /** Who connected, or listens, at that time. */
  peer(): { pid: number; uid: number; gid: number }
  close(): void
}

/** 16 bytes in network order, IPv4 as ::ffff:a.b.c.d; port in host order. */
export interface NativeAddress {
  readonly ip: Uint8Array
  readonly port: number
}

export interface NativeSocketOptions {
  readonly address: NativeAddress
  /** Source address of a connect; port 0 lets the kernel choose one by four-tuple. */
  readonly source?: NativeAddress
  /** One IPv6 socket for both families. */
  readonly dualStack?: boolean
  /** IP_TRANSPARENT: addresses that are not this namespace's may be used. */
  readonly transparent?: boolean
  readonly reusePort?: boolean
  /** SO_MARK; 0 for none. */
  readonly mark?: number
  /** Range to choose the source port from, at random: last << 16 | first. Needs `source`. */
  readonly portRange?: number
  readonly backlog?: number
  readonly timeoutMs?: number
  /** Seconds of silence until a TCP peer is asked whether it is still there; accepted sockets inherit it. 0 for never. */
  readonly keepAliveSeconds?: number
  /** A sk_storage map and the value to set for the socket before its first packet. */
  readonly storageMap?: OwnedFd
  readonly storageValue?: Uint8Array
}

export interface NativeConnection {
  readonly source: NativeAddress
  readonly destination: NativeAddress
  /** The kernel's socket cookie. */
  readonly cookie: bigint
  readonly mark: number
}

export interface NativeLink {
  readonly index: number
  /** The other end of a veth that leads to another namespace, by its index there; 0 if there is none. */
  readonly peerIndex: number
  readonly name: string
  readonly isUp: boolean
}

/** A program on a cgroup; `hook` is like `connect4`, `name` at most 15 characters. */
export interface AttachedProgram {
  readonly hook: string
  readonly id: number
  readonly name: string
}

export interface Native {
  initialise(createError: (call: string, errno: number, detail: string) => Error): void
  openPath(path: string): OwnedFd
  readonly RingBuffer: new (map: OwnedFd, recordBytes: number, onBatch: (records: Buffer) => void) => RingBuffer

  loadObject(path: string, maps: Record<string, OwnedFd>, verifierLogPath: string): { maps: Record<string, OwnedFd>; programs: Record<string, OwnedFd> }
  mapInfo(map: OwnedFd): { type: number; id: number; keySize: number; valueSize: number; maxEntries: number; name: string }
  mapLookup(map: OwnedFd, key: Uint8Array): Buffer | undefined
  mapUpdate(map: OwnedFd, key: Uint8Array, value: Uint8Array, flags?: number): void
  mapDelete(map: OwnedFd, key: Uint8Array): boolean
  mapTake(map: OwnedFd, key: Uint8Array): Buffer | undefined
  mapEntries(map: OwnedFd): [Buffer, Buffer][]
  mapUpdateBatch(map: OwnedFd, keys: Uint8Array, values: Uint8Array): void

  linkCreate(program: OwnedFd, target: OwnedFd | number, attachType: number): OwnedFd
  /** The same inside a namespace: interface indexes mean that namespace's. */
  linkCreateIn(netns: OwnedFd, program: OwnedFd, ifindex: number, attachType: number): Promise<OwnedFd>
  linkUpdate(link: OwnedFd, program: OwnedFd): void
  linkDetach(link: OwnedFd): void
  /** Not attached: it was taken off, or what it was attached to is gone. */
  linkInfo(link: OwnedFd): { id: number; programId: number; type: number; isAttached: boolean }
  pin(object: OwnedFd, path: string): void
  getPinned(path: string): OwnedFd | undefined
  programTestRun(program: OwnedFd, data?: Uint8Array, context?: Uint8Array): { result: number; context: Buffer }

  connectTcp(netns: OwnedFd, options: NativeSocketOptions): Promise<OwnedFd>
  /** Neither bound nor connected; fewer than `count` where descriptors run out. */
  makeTcpSockets(netns: OwnedFd, isIp6: boolean, count: number): Promise<OwnedFd[]>
  /** Connects one of those: 0 connected, 1 under way (awaitConnect), 2 the port it chose is taken, so another socket is needed. Throws what failed. */
  connectMade(socket: OwnedFd, options: NativeSocketOptions): 0 | 1 | 2
  /** The same socket, connected; the descriptor given stays the caller's. Rejects with what failed, after `timeoutMs` with ETIMEDOUT. */
  awaitConnect(socket: OwnedFd, timeoutMs: number): Promise<OwnedFd>
  listenTcp(netns: OwnedFd, options: NativeSocketOptions): Promise<OwnedFd>
  bindUdp(netns: OwnedFd, options: NativeSocketOptions): Promise<OwnedFd>
  /** struct tcp_info of a socket's descriptor. */
  tcpInfo(fd: number): Buffer
  /** The same, as much of it as `into` holds; returns how many bytes that are. Makes nothing. */
  tcpInfoInto(fd: number, into: Uint8Array): number
  /** Positions in `fds` of the sockets in which an error, such as a reset, waits to be read. Leaves it there. */
  pollErrors(fds: Int32Array): Int32Array
  /** From now on, closing the socket resets its connection (SO_LINGER of 0). */
  abortOnClose(fd: number): void
  /** How many of the first `length` bytes the socket took without waiting; 0 on an error too, which the next write tells. */
  trySend(fd: number, bytes: Uint8Array, length: number): number
  netnsInfo(netns: OwnedFd): Promise<{ cookie: bigint; inode: bigint }>
  netnsLinks(netns: OwnedFd): Promise<NativeLink[]>
  /** Addresses by which others reach the namespace, 16 bytes each, with the index of their interface. */
  netnsAddresses(netns: OwnedFd): Promise<{ index: number; ip: Uint8Array }[]>
  setReturnPath(netns: OwnedFd, options: { mark: number; table: number; priority: number; install: boolean }): Promise<void>
  /** TCP sockets with an established connection, or that listen. */
  listSockets(netns: OwnedFd, listening?: boolean): Promise<NativeConnection[]>
  destroySocket(netns: OwnedFd, connection: { source: NativeAddress; destination: NativeAddress }): Promise<boolean>

  /** Takes the descriptor over. */
  readonly UnixSocket: new (fd: OwnedFd, onReady: () => void) => UnixSocket
  unixConnect(path: string, isSeqpacket: boolean): OwnedFd
  /** `path` must not exist; the socket's file gets `mode` (less the umask) when it is made. */
  unixListen(path: string, isSeqpacket: boolean, mode: number): OwnedFd
  /** Another descriptor for the same open file. */
  duplicate(fd: OwnedFd | number): OwnedFd

  /** Question to errno, 0 meaning yes; the questions are in native/src/probe.cc. */
  probeKernel(): Promise<Record<string, number>>
  /** What anybody attached to exactly that cgroup, on the hooks we use too. */
  cgroupPrograms(path: string): AttachedProgram[]
}
