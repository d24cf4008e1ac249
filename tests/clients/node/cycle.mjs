// A whole cycle with Google's client library for Node, as its users write it. Prints the address of the consent page, reads the
// code from standard input, and prints what it saw as one line of JSON.
import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import readline from "node:readline/promises";
import { google } from "googleapis";

const [clientId, clientSecret] = process.argv.slice(2);
const auth = new google.auth.OAuth2(clientId, clientSecret, "http://localhost:9/back");
const { codeVerifier, codeChallenge } = await auth.generateCodeVerifierAsync();
console.log(
  auth.generateAuthUrl({
    access_type: "offline",
    scope: ["https://www.googleapis.com/auth/drive"],
    state: "from-node",
    code_challenge_method: "S256",
    code_challenge: codeChallenge,
  }),
);
const lines = readline.createInterface({ input: process.stdin });
const [code] = await new Promise((resolve) => lines.once("line", (line) => resolve([line])));
lines.close();
const { tokens } = await auth.getToken({ code, codeVerifier });
auth.setCredentials(tokens);

const drive = google.drive({ version: "v3", auth });
const seen = { scope: tokens.scope, refreshable: Boolean(tokens.refresh_token) };

// An access token that is no longer good: the library gets another by itself.
auth.setCredentials({ refresh_token: tokens.refresh_token, access_token: "over", expiry_date: Date.now() - 1000 });
const folder = await drive.files.create({ requestBody: { name: "runs", mimeType: "application/vnd.google-apps.folder" } });

const small = await drive.files.create({
  requestBody: { name: "small.txt", parents: [folder.data.id] },
  media: { mimeType: "text/plain", body: Readable.from(["hello ", "from node\r\n"]) },
  fields: "id,md5Checksum,mimeType",
});
seen.small = small.data.md5Checksum;

const size = 5 * 262144 + 123;
const content = Buffer.alloc(size, "node");
const opened = await auth.request({
  url: "https://www.googleapis.com/upload/drive/v3/files?uploadType=resumable&fields=id,size,md5Checksum",
  method: "POST",
  data: { name: "big.bin", parents: [folder.data.id] },
  headers: { "X-Upload-Content-Type": "application/octet-stream", "X-Upload-Content-Length": String(size) },
});
const session = opened.headers.get("location");
const half = 2 * 262144;
const first = await auth.request({
  url: session,
  method: "PUT",
  data: content.subarray(0, half),
  headers: { "Content-Range": `bytes 0-${half - 1}/${size}` },
  validateStatus: (status) => status === 308,
  retry: false,
});
seen.kept = first.headers.get("range");
const last = await auth.request({
  url: session,
  method: "PUT",
  data: content.subarray(half),
  headers: { "Content-Range": `bytes ${half}-${size - 1}/${size}` },
});
seen.big = last.data.md5Checksum === createHash("md5").update(content).digest("hex");

const listed = await drive.files.list({
  q: `'${folder.data.id}' in parents and trashed = false`,
  orderBy: "name",
  fields: "files(name,size)",
});
seen.listed = listed.data.files;

await drive.files.update({
  fileId: small.data.id,
  requestBody: { name: "renamed.txt" },
  media: { mimeType: "text/plain", body: Readable.from(["second"]) },
});
const got = await drive.files.get({ fileId: small.data.id, alt: "media" }, { responseType: "text" });
seen.downloaded = got.data;
const bytes = await drive.files.get({ fileId: last.data.id, alt: "media" }, { responseType: "arraybuffer" });
seen.same = Buffer.from(bytes.data).equals(content);
try {
  await drive.files.get({ fileId: "nothing" });
} catch (error) {
  seen.missing = [error.status, error.message];
}
await drive.files.delete({ fileId: last.data.id });
console.log(JSON.stringify(seen));
