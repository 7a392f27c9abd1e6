// In place of codecs of Zarr files, which NiiVue could read and this page never loads: they are
// 1.4 MB of WebAssembly, which the page's policy would not run.
export default class NoCodec {
  static fromConfig(): never {
    throw new Error("This page reads no Zarr files.");
  }
}
