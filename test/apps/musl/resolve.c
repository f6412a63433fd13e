// `musl-resolve 4|6|0 NAME`: prints the addresses that musl's resolver finds, one per line. musl asks all servers of
// resolv.conf at once from one socket that is not connected, and takes the first answer from any of their addresses.
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  hints.ai_family = argv[1][0] == '4' ? AF_INET : argv[1][0] == '6' ? AF_INET6 : AF_UNSPEC;
  struct addrinfo *found = NULL;
  const int code = getaddrinfo(argv[2], NULL, &hints, &found);
  if (code != 0) {
    fprintf(stderr, "%s\n", gai_strerror(code));
    return 1;
  }
  for (struct addrinfo *each = found; each; each = each->ai_next) {
    char text[INET6_ADDRSTRLEN] = "";
    const void *address = each->ai_family == AF_INET ? (const void *)&((struct sockaddr_in *)each->ai_addr)->sin_addr
                                                     : (const void *)&((struct sockaddr_in6 *)each->ai_addr)->sin6_addr;
    puts(inet_ntop(each->ai_family, address, text, sizeof text));
  }
  freeaddrinfo(found);
  return 0;
}
