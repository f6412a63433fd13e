// The X.509 library behind the polyfill it needs, in this order. Import it from here, or it throws while loading.
import 'reflect-metadata'

export * from '@peculiar/x509'
