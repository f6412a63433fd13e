import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parsePublishAnnotation, parsePublishOption } from './publish.ts'

test('ports of an annotation, or what is wrong with it', () => {
  expect(parsePublishAnnotation(' 8080=80, 8443=443 ,')).toEqual({ ports: [{ hostPort: 8080, port: 80 }, { hostPort: 8443, port: 443 }] })
  expect(parsePublishAnnotation('')).toEqual({ ports: [] })
  const wrong = ['8080', '8080=', '=80', '0=80', '65536=80', '80=65536', '8080=80=80', '1=1,1=2', '-1=80', '1e2=80', Array.from({ length: 17 }, (_, i) => `${i + 1}=1`).join()]
  for (const text of wrong) expect(parsePublishAnnotation(text), text).toHaveProperty('problem')
})

test('an option', () => {
  expect(parsePublishOption('shop/ingress=8080')).toEqual({ namespace: 'shop', name: 'ingress', hostPort: 8080 })
  expect(parsePublishOption('shop/ingress:80=8080')).toEqual({ namespace: 'shop', name: 'ingress', hostPort: 8080, port: 80 })
  for (const text of ['ingress=8080', 'a/b', 'a/b=0', 'a/b:0=80', 'a/b:=80', 'a/b/c=80', '../b=80', 'a/b=99999', '']) expect(parsePublishOption(text), text).toBeUndefined()
})

test('any text gives ports that are ports, or a problem', () => {
  fc.assert(fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9=, ]{0,30}$/)), (text) => {
    const read = parsePublishAnnotation(text)
    if ('ports' in read) for (const port of read.ports.flatMap((each) => [each.port, each.hostPort])) expect(port).toSatisfy((value: number) => value > 0 && value < 65_536)
    void parsePublishOption(text)
  }))
})
