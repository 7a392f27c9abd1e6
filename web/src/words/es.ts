// The page's words in Spanish.
import type { en } from "./en";

export const es: Record<keyof typeof en, string> = {
  "app.notice": "Solo para investigación · no es un producto sanitario",
  "error.again": "Inténtelo de nuevo.",
  "error.status": "El servicio respondió {status}.",
  "error.gone": "El servicio no responde.",
  "error.gone.hint": "¿Sigue en marcha «medfinder serve»?",
  "error.cut": "La subida se interrumpió.",
  "error.cut.hint": "¿Es demasiado grande el archivo, o se paró el servicio?",
};
