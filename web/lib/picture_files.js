/** A picture's file: to the clipboard, the disk, the server's input folder. */

import { api } from "../../../scripts/api.js";
import { element } from "./dom.js";

/** Address of a file of the server's folders, {filename, subfolder, type}. */
export const fileUrl = (file) => api.apiURL(`/view?${new URLSearchParams(file)}`);

export async function fetched(url, options) {
  const answer = await fetch(url, options);
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  return answer.blob();
}

/** Put the picture into the clipboard; browsers allow it on https and localhost only. */
export async function copyPicture(url) {
  await navigator.clipboard.write([new ClipboardItem({ "image/png": fetched(url) })]);
}

export async function savePicture(url, name) {
  const place = URL.createObjectURL(await fetched(url));
  element("a", { href: place, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(place), 10_000);
}

export async function uploadPicture(url, name) {
  const body = new FormData();
  body.append("image", await fetched(url), name);
  const answer = await api.fetchApi("/upload/image", { method: "POST", body });
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  const saved = await answer.json();
  return saved.subfolder ? `${saved.subfolder}/${saved.name}` : saved.name;
}
