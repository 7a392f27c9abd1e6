// The page is served from its own origin under /, its hashed files under /assets/.
import { defineConfig } from "vite";

export default defineConfig({
  root: import.meta.dirname,
  publicDir: "public",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  resolve: { alias: [{ find: /^numcodecs\/(blosc|lz4|zstd)$/, replacement: `${import.meta.dirname}/src/no-codec.ts` }] },
  build: {
    outDir: "../src/medfinder/serve/static",
    emptyOutDir: true,
    target: "es2023",
    sourcemap: false,
    // A data: URL would need a wider content security policy than a file does.
    assetsInlineLimit: 0,
    license: { fileName: "licences.md" }, // of what is bundled, as those licences ask
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 4000,
  },
});
