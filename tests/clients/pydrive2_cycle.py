"""A whole cycle with PyDrive2 as its users write it; run with the interpreter that has it. Prints one line of JSON."""

import json
import random
import sys

from oauth2client.service_account import ServiceAccountCredentials
from pydrive2.auth import GoogleAuth
from pydrive2.drive import GoogleDrive
from pydrive2.files import ApiRequestError

key, folder = sys.argv[1:]
auth = GoogleAuth()
auth.credentials = ServiceAccountCredentials.from_json_keyfile_name(key, ["https://www.googleapis.com/auth/drive"])
drive = GoogleDrive(auth)
seen: dict[str, object] = {}

runs = drive.CreateFile({"title": "runs", "mimeType": "application/vnd.google-apps.folder"})
runs.Upload()
text = drive.CreateFile({"title": "notes.txt", "parents": [{"id": runs["id"]}]})
text.SetContentString("größer\r\n")
text.Upload()

content = random.Random(5).randbytes(3_000_000)
with open(f"{folder}/big.bin", "wb") as file:
    file.write(content)
big = drive.CreateFile({"title": "big.bin", "parents": [{"id": runs["id"]}]})
big.SetContentFile(f"{folder}/big.bin")
big.Upload()  # PyDrive2 uploads everything by resumable requests
seen["big"] = [big["md5Checksum"], big["fileSize"]]

query = f"'{runs['id']}' in parents and trashed = false and title != 'title'"
seen["listed"] = [one["title"] for one in drive.ListFile({"q": query, "orderBy": "title", "maxResults": 1000}).GetList()]
seen["pages"] = [len(page) for page in drive.ListFile({"q": query, "maxResults": 1})]

text["title"] = "renamed.txt"
text.SetContentString("second")
text.Upload()
again = drive.CreateFile({"id": text["id"]})
again.FetchMetadata()
seen["fetched"] = [again["title"], again["labels"]["trashed"], again["parents"][0]["id"] == runs["id"]]
seen["text"] = drive.CreateFile({"id": text["id"]}).GetContentString()
drive.CreateFile({"id": big["id"]}).GetContentFile(f"{folder}/down.bin")
with open(f"{folder}/down.bin", "rb") as file:
    seen["same"] = file.read() == content
text.Trash()
seen["trashed"] = [one["title"] for one in drive.ListFile({"q": "trashed = true"}).GetList()]
text.UnTrash()
big.Delete()
try:
    big.FetchMetadata(fetch_all=True)
except ApiRequestError as error:
    seen["gone"] = error.GetField("reason")
seen["about"] = drive.GetAbout()["quotaBytesUsed"]
print(json.dumps(seen))
