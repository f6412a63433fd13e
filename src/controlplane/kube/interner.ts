// One copy of texts that come again and again: names of nodes, values of labels. Bounded; what it forgets is merely there twice.

const maxTexts = 50_000

export class Interner {
  readonly #texts = new Map<string, string>()

  get(text: string): string {
    const known = this.#texts.get(text)
    if (known !== undefined) return known
    if (this.#texts.size >= maxTexts) this.#texts.clear()
    this.#texts.set(text, text)
    return text
  }
}
