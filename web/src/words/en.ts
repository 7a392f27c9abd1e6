// The page's words in English. Keys are "part.what"; the viewer's begin with "viewer.".
export const en = {
  "app.notice": "Research use only · not a medical device",
  "error.again": "Try again.",
  "error.status": "The service answered {status}.",
  "error.gone": "The service does not answer.",
  "error.gone.hint": "Is 'medfinder serve' still running?",
  "error.cut": "The upload was cut off.",
  "error.cut.hint": "Is the file too large, or the service gone?",
};
