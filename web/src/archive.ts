// Many files → one zip, stored, not packed: CT slices go up as one upload. The files' own names
// may tell who the patient is, so they are numbered.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// PKWARE APPNOTE 4.3.7 and 4.3.12: the fields that local and central headers share.
function shared(view: DataView, at: number, crc: number, size: number, nameLength: number): void {
  view.setUint16(at, 20, true); // version needed
  view.setUint16(at + 8, 0x0021, true); // 1 January 1980
  view.setUint32(at + 10, crc, true);
  view.setUint32(at + 14, size, true);
  view.setUint32(at + 18, size, true);
  view.setUint16(at + 22, nameLength, true);
}

export async function zipped(files: File[], signal: AbortSignal): Promise<Blob> {
  const body: BlobPart[] = [];
  const directory: BlobPart[] = [];
  let offset = 0;
  let directorySize = 0;
  for (const [i, file] of files.entries()) {
    signal.throwIfAborted();
    const ending = /\.nii(\.gz)?$/i.exec(file.name)?.[0].toLowerCase() ?? "";
    const name = new TextEncoder().encode(String(i).padStart(6, "0") + ending);
    const crc = crc32(new Uint8Array(await file.arrayBuffer()));
    const local = new DataView(new ArrayBuffer(30));
    local.setUint32(0, 0x04034b50, true);
    shared(local, 4, crc, file.size, name.length);
    const central = new DataView(new ArrayBuffer(46));
    central.setUint32(0, 0x02014b50, true);
    central.setUint16(4, 20, true);
    shared(central, 6, crc, file.size, name.length);
    central.setUint32(42, offset, true);
    body.push(local.buffer, name, file);
    directory.push(central.buffer, name);
    offset += 30 + name.length + file.size;
    directorySize += 46 + name.length;
  }
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, directorySize, true);
  end.setUint32(16, offset, true);
  return new Blob([...body, ...directory, end.buffer]);
}

// The files of a drop, folders opened; order does not matter to a series.
export async function dropped(transfer: DataTransfer): Promise<File[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry !== null && entry !== undefined);
  if (!entries.length) return [...transfer.files];
  const files: File[] = [];
  while (entries.length) {
    const entry = entries.pop()!;
    if (entry.isFile) files.push(await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject)));
    else {
      const reader = (entry as FileSystemDirectoryEntry).createReader();
      for (;;) {
        const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
        if (!batch.length) break;
        entries.push(...batch);
      }
    }
  }
  return files.filter((file) => !file.name.startsWith("."));
}
