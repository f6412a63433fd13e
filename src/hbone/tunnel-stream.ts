// One CONNECT stream as a Duplex that behaves as a TCP socket does: END_STREAM is half-close, RST_STREAM is a reset and an
// error, and what the reader does not take stops the sender of this one stream. Never reports a cut connection as an end.
import { Duplex } from 'node:stream'
import { constants } from 'node:http2'
import type { Http2Stream } from 'node:http2'
import { MeshError } from '../core/errors.ts'

const { NGHTTP2_NO_ERROR, NGHTTP2_CANCEL, NGHTTP2_CONNECT_ERROR } = constants

/** Bytes kept here, above what HTTP/2's window lets come. */
const bufferBytes = 65_536

/** Sends RST_STREAM and nothing else. Node's close() alone sends END_STREAM before it, and the peer would take a cut for an end. */
export function resetStream(stream: Http2Stream, code: number): void {
  stream._final = (done) => done()
  stream.close(code)
}

type Done = (error?: Error | null) => void

/** Emits 'error' (MeshError TUNNEL_CLOSED, `detail.rstCode`) where TCP would say ECONNRESET. Paused until read from. */
export class TunnelStream extends Duplex {
  bytesRead = 0
  bytesWritten = 0
  readonly #inner: Http2Stream
  #hasEnded = false
  #taker: ((chunk: Buffer) => boolean) | undefined

  constructor(inner: Http2Stream) {
    super({ allowHalfOpen: true, readableHighWaterMark: bufferBytes, writableHighWaterMark: bufferBytes })
    this.#inner = inner
    inner.on('data', (chunk: Buffer) => {
      this.bytesRead += chunk.length
      if (!(this.#taker ? this.#taker(chunk) : this.push(chunk))) inner.pause()
    })
    inner.pause()
    // Node ends the readable side of a stream that was cut, too; only of a living one does it mean END_STREAM.
    inner.on('end', () => {
      if (inner.destroyed) return
      this.#hasEnded = true
      this.push(null)
    })
    inner.on('error', () => {
      // The reason is the code that 'close' reports right after.
    })
    inner.once('close', () => this.#onInnerClose())
    // Who takes the stream a tick later must not find the process ended by it; the stream is destroyed, which cannot be overlooked.
    this.on('error', () => {})
    if (inner.destroyed) queueMicrotask(() => this.#onInnerClose())
  }

  /** HTTP/2's number of the stream; undefined once it is gone. */
  get streamId(): number | undefined {
    return this.#inner.id
  }

  /** Ends both directions with RST_STREAM CONNECT_ERROR: what net.Socket does for a TCP reset (RFC 9113, 8.5). */
  resetAndDestroy(): this {
    if (!this.destroyed && !this.#inner.closed) resetStream(this.#inner, NGHTTP2_CONNECT_ERROR)
    return this.destroy()
  }

  /**
   * Takes over what has arrived, however much the reader is behind: before a connection ends, because Node throws away with it
   * what its streams still hold. Bounded by the stream's window.
   */
  absorb(): void {
    while (!this.destroyed && !this.#inner.destroyed && this.#inner.read() !== null);
  }

  /**
   * In place of 'data', for who carries bytes: this stream's own queue and its ticks are left out. `taker` says whether it wants
   * more; after a no, takeMore() goes on. Call it before anything was read; 'end' comes as ever.
   */
  takeWith(taker: (chunk: Buffer) => boolean): void {
    this.#taker = taker
    // Nothing is pushed but the end, which is told only to who reads.
    this.resume()
  }

  takeMore(): void {
    this.#inner.resume()
  }

  /** As write(), past this stream's own queue: not to be mixed with write(). `done` gives the bytes back; with an error the stream closes, too. */
  send(bytes: Buffer, done: Done): void {
    this.bytesWritten += bytes.length
    this.#inner.write(bytes, done)
  }

  override _read(): void {
    this.#inner.resume()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: Done): void {
    this.bytesWritten += chunk.length
    this.#inner.write(chunk, this.#translate(done))
  }

  override _writev(chunks: { chunk: Buffer; encoding: BufferEncoding }[], done: Done): void {
    const last = chunks.length - 1
    this.#inner.cork()
    chunks.forEach(({ chunk }, i) => {
      this.bytesWritten += chunk.length
      if (i === last) this.#inner.write(chunk, this.#translate(done))
      else this.#inner.write(chunk)
    })
    this.#inner.uncork()
  }

  override _final(done: Done): void {
    this.#inner.end(this.#translate(done))
  }

  override _destroy(error: Error | null, done: Done): void {
    if (!this.#inner.closed && !this.#isComplete) resetStream(this.#inner, NGHTTP2_CANCEL)
    // Lets a stream end that nobody reads any more.
    this.#inner.resume()
    done(error)
  }

  /** Both sides have finished. The inner stream knows first, our own end of writing comes some ticks later. */
  get #isComplete(): boolean {
    return this.#hasEnded && this.#inner.writableFinished && this.#inner.rstCode === NGHTTP2_NO_ERROR
  }

  #translate(done: Done): Done {
    return (error) => done(error ? this.#cut() : null)
  }

  #onInnerClose(): void {
    if (this.destroyed || this.#isComplete) return
    // Everything the peer had to say has come; only our own direction is cut.
    if (this.#hasEnded && !this.readableEnded && this.#inner.rstCode === NGHTTP2_NO_ERROR) this.once('end', () => this.destroy(this.#cut()))
    else this.destroy(this.#cut())
  }

  #cut(): MeshError {
    const rstCode = this.#inner.rstCode
    return new MeshError('TUNNEL_CLOSED', 'the tunnel was cut before both sides had finished', {
      source: 'upstream', retry: 'never', detail: { rstCode, bytesRead: this.bytesRead, bytesWritten: this.bytesWritten },
    })
  }
}
