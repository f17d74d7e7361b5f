"""Mail, over a real IMAP server (dovecot) and a real SMTP server (aiosmtpd)."""

from __future__ import annotations

import mailbox
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

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
{tls}
disable_plaintext_auth = no
mail_location = maildir:{folder}/in
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
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


@dataclass(frozen=True)
class Certificate:
    """Of 127.0.0.1, signed by itself."""

    file: Path
    key: Path

    @property
    def context(self) -> ssl.SSLContext:
        """For a server that has it."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.file, self.key)
        return made


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    made = Certificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(made.key), "-out", str(made.file)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return made


@contextmanager
def dovecot(port: int, *, certificate: Certificate | None = None) -> Iterator[Path]:
    """The server, and its folder: outside of pytest's, which only we may enter, for it reads mail as somebody else."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        mailbox.Maildir(folder / "in")
        for place in ("in", "in/new", "in/cur", "in/tmp"):
            os.chown(folder / place, NOBODY, NOBODY)
        tls, ports = "ssl = no", {"imap": port, "imaps": 0}
        if certificate is not None:
            tls = f"ssl = required\nssl_cert = <{certificate.file}\nssl_key = <{certificate.key}"
            ports = {"imap": 0, "imaps": port}
        settings = DOVECOT.format(folder=folder, uid=NOBODY, tls=tls, **ports)
        (folder / "dovecot.conf").write_text(settings)
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


@dataclass
class SmtpServer:
    """A server that takes mail only over TLS and only after a login."""

    port: int
    taken: list[EmailMessage]
    logins: list[bool]


@contextmanager
def secure_smtp(certificate: Certificate, *, starttls: bool) -> Iterator[SmtpServer]:
    made = SmtpServer(free_port(), [], [])

    class Handler:
        async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
            assert session.ssl is not None or not starttls
            assert session.authenticated
            made.taken.append(message_from_bytes(envelope.original_content or b"", policy=policy.default))
            return "250 OK"

    def check(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        made.logins.append((data.login, data.password) == (b"sexton@example.org", b"secret"))
        return AuthResult(success=made.logins[-1], handled=False)

    settings: dict[str, Any] = {"authenticator": check, "auth_required": True, "auth_require_tls": starttls}
    if starttls:
        settings |= {"tls_context": certificate.context, "require_starttls": True}
    else:
        settings |= {"ssl_context": certificate.context}
    controller = Controller(Handler(), hostname="127.0.0.1", port=made.port, **settings)
    controller.start()
    try:
        yield made
    finally:
        controller.stop()


# The server counts only STARTTLS as TLS, and warns of a login without it.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_mail_over_tls_with_a_login(
    tmp_path: Path, certificate: Certificate, security: Literal["starttls", "tls"], monkeypatch: pytest.MonkeyPatch
) -> None:
    imap = free_port()
    with (
        dovecot(imap, certificate=certificate) as folder,
        secure_smtp(certificate, starttls=security == "starttls") as smtp,
    ):
        options = EmailOptions(
            address="sexton@example.org",
            password="secret",
            imap=f"127.0.0.1:{imap}",
            smtp=f"127.0.0.1:{smtp.port}",
            smtp_security=security,
        )
        post = PostOffice(folder, folder, options)
        async with running_channel(tmp_path, "email", options, wait_connected=False) as bench:
            await bench.wait(lambda: bench.has("channel.down"))
            (status,) = await bench.channels.statuses()
            assert "CERTIFICATE_VERIFY_FAILED" in (status.error or "")  # Nobody has told us to trust it.
            waiting = await bench.deliveries.send("email:ada@example.org", "too early", key="1")
            await bench.wait(lambda: bench.has("delivery.delayed"))
            assert "certificate" in str((await bench.deliveries.delivery(waiting.id)).error).lower()
            await bench.deliveries.cancel(waiting.id)
            assert smtp.logins == []  # The password was told to nobody.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.file))
        async with running_channel(tmp_path, "email", options) as bench:
            post.put("What time is it?", subject="")
            await bench.wait(lambda: len(smtp.taken) == 1)
            assert smtp.taken[0].get_content().strip() == "you said What time is it?"
            assert smtp.logins == [True]
        wrong = options.model_copy(update={"password": "wrong"})
        async with running_channel(tmp_path, "email", wrong, wait_connected=False) as bench:
            refused = await bench.deliveries.send("email:ada@example.org", "hello", key="2")
            await bench.wait(lambda: bench.has("delivery.delayed"))
            assert "refused the login" in str((await bench.deliveries.delivery(refused.id)).error)


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
