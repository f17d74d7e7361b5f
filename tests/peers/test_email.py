"""Mail, over a real IMAP server (dovecot) and a real SMTP server (aiosmtpd)."""

from __future__ import annotations

import mailbox
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from chatting import PNG, ScriptedChats
from peers.channel_runs import running_channel
from peers.real_server import accepts, free_port, real_server
from sexton.agent import Attachment
from sexton.gateway.channels.email import EmailOptions

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("debian_packages")]

NOBODY = 65534
ZIP = b"PK\x05\x06" + bytes(18)
DOVECOT = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = /dev/stderr
protocols = imap
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:{folder}/in
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service anvil {{
  chroot =
}}
passdb {{
  driver = static
  args = password=secret
}}
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={folder}
}}
"""


@dataclass
class PostOffice:
    """`put` lays a mail into our mailbox, `sent` are the mails that we sent."""

    folder: Path
    out: Path
    options: EmailOptions

    def put(
        self,
        text: str,
        *,
        sender: str = "ada@example.org",
        subject: str = "hello",
        files: dict[str, tuple[str, bytes]] | None = None,
        **headers: str,
    ) -> None:
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = sender, self.options.address, subject
        for name, value in headers.items():
            mail[name.replace("_", "-")] = value
        mail.set_content(text)
        for name, (kind, content) in (files or {}).items():
            main, _, rest = kind.partition("/")
            mail.add_attachment(content, maintype=main, subtype=rest, filename=name)
        inbox = mailbox.Maildir(self.folder / "in")
        key = inbox.add(bytes(mail))
        os.chown(self.folder / "in" / "new" / key, NOBODY, NOBODY)

    @property
    def sent(self) -> list[EmailMessage]:
        files = sorted((self.out / "new").glob("*"), key=lambda file: file.stat().st_mtime_ns)
        return [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]


@contextmanager
def dovecot(port: int) -> Iterator[Path]:
    """The server, and its folder: outside of pytest's, which only we may enter, for it reads mail as somebody else."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        mailbox.Maildir(folder / "in")
        for place in ("in", "in/new", "in/cur", "in/tmp"):
            os.chown(folder / place, NOBODY, NOBODY)
        (folder / "dovecot.conf").write_text(DOVECOT.format(folder=folder, port=port, uid=NOBODY))
        argv = ["dovecot", "-F", "-c", str(folder / "dovecot.conf")]
        with real_server(argv, folder=folder, is_up=lambda: accepts(port)):
            yield folder


@pytest.fixture
def post(tmp_path: Path) -> Iterator[PostOffice]:
    imap, smtp = free_port(), free_port()
    out = tmp_path / "out"
    receives = [sys.executable, "-m", "aiosmtpd", "-n", "-l", f"127.0.0.1:{smtp}"]
    receives += ["-c", "aiosmtpd.handlers.Mailbox", str(out)]
    options = EmailOptions(
        address="sexton@example.org",
        password="secret",
        imap=f"127.0.0.1:{imap}",
        imap_security="none",
        smtp=f"127.0.0.1:{smtp}",
        smtp_security="none",
    )
    with dovecot(imap) as folder, real_server(receives, folder=tmp_path, is_up=lambda: accepts(smtp)):
        yield PostOffice(folder, out, options)


async def test_a_mail_is_answered_in_its_thread(tmp_path: Path, post: PostOffice) -> None:
    post.put("This was there before us.")
    async with running_channel(tmp_path, "email", post.options, allow=("ada@example.org",)) as bench:
        post.put("What time is it?", subject="Time", Message_ID="<one@example.org>")
        await bench.wait(lambda: len(post.sent) == 1)
        answer = post.sent[0]
        assert answer["subject"] == "Re: Time"
        assert answer["to"] == "ada@example.org"
        assert answer["in-reply-to"] == "<one@example.org>"
        assert answer["auto-submitted"] == "auto-replied"
        assert answer.get_content().strip() == "you said Time\n\nWhat time is it?"
        quoted = "And tomorrow?\n\nOn Sunday, Sexton wrote:\n> you said Time"
        post.put(quoted, subject="Re: Time", Message_ID="<two@example.org>", References="<one@example.org> <x@y>")
        await bench.wait(lambda: len(post.sent) == 2)
        assert bench.chats.said == ["Time\n\nWhat time is it?", "And tomorrow?"]
        assert len(set(bench.chats.places.values())) == 1
        post.put("Another thing.", Message_ID="<three@example.org>")
        await bench.wait(lambda: len(post.sent) == 3)
        assert len(set(bench.chats.places.values())) == 2


async def test_what_came_while_we_were_down_is_answered_and_nothing_twice(tmp_path: Path, post: PostOffice) -> None:
    chats = ScriptedChats()
    async with running_channel(tmp_path, "email", post.options, chats=chats) as bench:
        post.put("first", subject="", Message_ID="<one@example.org>")
        await bench.wait_sent("you said first")
    post.put("second", subject="", Message_ID="<two@example.org>")
    post.put("first", subject="", Message_ID="<one@example.org>")  # A copy, as some servers deliver.
    async with running_channel(tmp_path, "email", post.options, chats=chats) as bench:
        await bench.wait_sent("you said second")
        post.put("third", subject="", Message_ID="<three@example.org>")
        await bench.wait_sent("you said third")
    assert chats.said == ["first", "second", "third"]
    assert [mail.get_content().strip() for mail in post.sent] == ["you said first", "you said second", "you said third"]


async def test_programs_strangers_and_ourselves_get_no_answer(tmp_path: Path, post: PostOffice) -> None:
    allow = ("ada@example.org", "sexton@example.org")
    async with running_channel(tmp_path, "email", post.options, allow=allow, tell_strangers=False) as bench:
        post.put("I am away.", Auto_Submitted="auto-replied")
        post.put("Buy this.", List_Id="<all.example.org>")
        post.put("It came from here.", sender="sexton@example.org")
        post.put("Let me in.", sender="eve@example.org")
        post.put("It is me.", subject="")
        await bench.wait_sent("you said It is me.")
        assert bench.chats.said == ["It is me."]
        assert len(post.sent) == 1


async def test_a_sender_whom_our_own_server_did_not_check_is_nobody(tmp_path: Path, post: PostOffice) -> None:
    options = post.options.model_copy(update={"authserv": "mx.example.org"})
    async with running_channel(tmp_path, "email", options) as bench:
        post.put("not checked", subject="")
        post.put("failed", subject="", Authentication_Results="mx.example.org; dmarc=fail")
        post.put("said so himself", subject="", Authentication_Results="mx.evil.example; dmarc=pass")
        post.put("checked", subject="", Authentication_Results="mx.example.org; spf=pass; dmarc=pass (p=none)")
        await bench.wait_sent("you said checked")
        assert bench.chats.said == ["checked"]


async def test_pictures_and_files_go_both_ways(tmp_path: Path, post: PostOffice) -> None:
    pictures = [Attachment("image/png", PNG), Attachment("image/png", PNG, "second.png")]
    chats = ScriptedChats(made={"t1": pictures})
    async with running_channel(tmp_path, "email", post.options, chats=chats) as bench:
        files = {"cat.png": ("image/png", PNG), "list.txt": ("text/plain", b"milk"), "a.zip": ("application/zip", ZIP)}
        post.put("look", subject="", files=files)
        await bench.wait(lambda: len(post.sent) == 2)
        (said,) = chats.given
        assert [one.data for one in said.pictures] == [PNG]
        assert [(one.name, one.text.strip()) for one in said.files] == [("list.txt", "milk")]
        told, answer = post.sent
        assert told.get_content().strip() == (
            "I cannot read this:\na.zip: it is neither a picture nor text (application/zip)"
        )
        attached = [(one.get_filename(), one.get_content()) for one in answer.iter_attachments()]
        assert attached == [("picture-1.png", PNG), ("second.png", PNG)]


async def test_a_big_output_is_attached(tmp_path: Path, post: PostOffice) -> None:
    async with running_channel(tmp_path, "email", post.options) as bench:
        text = "line\n" * 100_000
        await bench.deliveries.send("email:bob@example.org", text, key="k", title="backup ran")
        await bench.wait(lambda: len(post.sent) == 1)
        (mail,) = post.sent
        assert mail["subject"] == "backup ran"
        assert mail["auto-submitted"] == "auto-generated"
        (attachment,) = mail.iter_attachments()
        assert attachment.get_content() == text


async def test_a_wrong_password_is_told_and_stops_nothing(tmp_path: Path, post: PostOffice) -> None:
    options = post.options.model_copy(update={"password": "wrong"})
    async with running_channel(tmp_path, "email", options, wait_connected=False) as bench:
        await bench.wait(lambda: bench.has("channel.down"))
        (status,) = await bench.channels.statuses()
        assert "refused the login of sexton@example.org" in str(status.error)
        assert "wrong" not in repr(options)


async def test_a_server_that_goes_away_is_noticed(tmp_path: Path) -> None:
    port = free_port()
    options = EmailOptions(
        address="a@example.org", password="secret", imap=f"127.0.0.1:{port}", imap_security="none", smtp="127.0.0.1:1"
    )
    async with AsyncExitStack() as stack:
        with dovecot(port):
            bench = await stack.enter_async_context(running_channel(tmp_path, "email", options))
        await bench.wait(lambda: bench.has("channel.down"))
