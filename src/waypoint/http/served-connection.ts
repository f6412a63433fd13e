// What the front can ask of a connection that it serves, whichever version of HTTP it speaks.

/** A connection of HTTP. */
export interface ServedConnection {
  /** Its next answer is its last, where the version of HTTP can say so without losing what is on its way. */
  announceEnd(): void
  /** It ends when nothing is under way. */
  drain(): void
}
