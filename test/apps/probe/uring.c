// connect(2) by io_uring without liburing: one ring of one entry, one submission, one completion. Runtimes that do all
// their I/O this way never enter the connect system call, so whatever hooks it must be tried this way too.
#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "probe.h"

struct ring {
  int fd;
  unsigned char *queues;
  size_t queues_size;
  struct io_uring_sqe *entries;
};

static unsigned *queue_field(const struct ring *ring, uint32_t offset) { return (unsigned *)(ring->queues + offset); }

static int open_ring(struct ring *ring, struct io_uring_params *params) {
  *ring = (struct ring){.fd = (int)syscall(SYS_io_uring_setup, 1, params)};
  if (ring->fd < 0) return errno;
  ring->queues_size = params->cq_off.cqes + params->cq_entries * sizeof(struct io_uring_cqe);
  const size_t submissions_size = params->sq_off.array + params->sq_entries * sizeof(unsigned);
  if (submissions_size > ring->queues_size) ring->queues_size = submissions_size;
  void *queues = mmap(NULL, ring->queues_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, IORING_OFF_SQ_RING);
  if (queues == MAP_FAILED) return errno;
  ring->queues = queues;
  void *entries = mmap(NULL, sizeof *ring->entries, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, IORING_OFF_SQES);
  if (entries == MAP_FAILED) return errno;
  ring->entries = entries;
  return 0;
}

static void close_ring(struct ring *ring) {
  if (ring->entries) munmap(ring->entries, sizeof *ring->entries);
  if (ring->queues) munmap(ring->queues, ring->queues_size);
  if (ring->fd >= 0) close(ring->fd);
}

static int submit_connect(struct ring *ring, const struct io_uring_params *params, int fd, const struct endpoint *to) {
  *ring->entries = (struct io_uring_sqe){
      .opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uintptr_t)&to->addr, .off = to->length};
  queue_field(ring, params->sq_off.array)[0] = 0;
  __atomic_store_n(queue_field(ring, params->sq_off.tail), 1, __ATOMIC_RELEASE);
  while (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0) {
    if (errno != EINTR) return errno;
  }
  const unsigned tail = __atomic_load_n(queue_field(ring, params->cq_off.tail), __ATOMIC_ACQUIRE);
  if (tail == 0) return EAGAIN;
  return -((const struct io_uring_cqe *)(ring->queues + params->cq_off.cqes))->res;
}

int uring_connect(int fd, const struct endpoint *to) {
  struct io_uring_params params = {0};
  struct ring ring;
  int code = open_ring(&ring, &params);
  // Rings mapped in two parts are older than any kernel that this can run on.
  if (code == 0 && !(params.features & IORING_FEAT_SINGLE_MMAP)) code = ENOSYS;
  if (code == 0) code = submit_connect(&ring, &params, fd, to);
  close_ring(&ring);
  return code;
}
