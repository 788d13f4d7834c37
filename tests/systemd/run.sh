# Runs inside the container, as a unit of its own. Each line it prints is `ok NAME` or `not ok NAME: WHY`.
exec 2>&1
set -u
CURL="curl -s -m 10 --cacert /etc/ringgate/cert.pem --resolve app.example.test:443:127.0.0.1"
OPEN=https://app.example.test/open
property() { systemctl show -p "$1" --value ringgate; }
failed=0
ok() { echo "ok $1"; }
bad() { tail -n 3 /var/log/private/ringgate/decisions.jsonl /var/log/ringgate/decisions.jsonl 2>/dev/null; failed=1; echo "not ok $1: $2"; systemctl status --no-pager -l -n 30 ringgate; }
is() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1" "expected \`$3\`, got \`$2\`"; fi; }
has() { case "$2" in *"$3"*) ok "$1" ;; *) bad "$1" "expected \`$3\` in \`$2\`" ;; esac; }
code() { $CURL -o /dev/null -w '%{http_code}' "$1"; }
# Waits up to 60 s until a command succeeds.
until_true() { for _ in $(seq 600); do if eval "$1"; then return 0; fi; sleep 0.1; done; return 1; }
# Asks again and again, each time on a new connection, until the file `stop` is there; the exit codes of curl that are not 0.
load() { rm -f stop asked; (while [ ! -e stop ]; do $CURL -f -o /dev/null $OPEN || { echo "curl exit $?"; grep -h "\"status\":50[0-9]" /var/log/ringgate/decisions.jsonl | tail -n 2; }; echo >>asked; done) >load.txt 2>&1 & LOAD=$!; until_true "[ -s asked ]"; }
loaded() { n=$(wc -l <asked); until_true "[ \$(wc -l <asked) -gt $((n + 5)) ]"; touch stop; wait $LOAD; sort load.txt | uniq -c | tr '\n' ' '; }

cd "$(mktemp -d)"
# Installed, and nothing runs that nobody asked for.
dpkg -i /test/first/ringgate_*.deb || bad "the package is installed" "exit code $?"
is "it is not enabled" "$(systemctl is-enabled ringgate)" disabled
is "and not started" "$(systemctl is-active ringgate)" inactive
is "it has its user" "$(id -gn ringgate)" ringgate
is "who may read keys" "$(stat -c '%a %U %G' /etc/ringgate/tls)" "750 root ringgate"
systemctl start ringgate; is "without a configuration it does not start" "$?" 1
has "and says why" "$(journalctl -u ringgate --no-pager 2>&1)" "nothing to do"
has "and says it as an error" "$(journalctl -u ringgate -p err -t ringgate -o cat --no-pager 2>&1)" "nothing to do"
systemctl stop ringgate; systemctl reset-failed ringgate
mkdir -p /etc/systemd/system/ringgate.service.d /etc/systemd/system/ringgate.socket.d
cp /test/ringgate.toml /test/cert.pem /test/key.pem /etc/ringgate/
cat >/etc/systemd/system/ringgate.service.d/test.conf <<'UNIT'
[Service]
WatchdogSec=3s
LoadCredential=tls-key:/etc/ringgate/key.pem
UNIT
mkdir /etc/systemd/system/ringgate@.service.d
cp /etc/systemd/system/ringgate.service.d/test.conf /etc/systemd/system/ringgate@.service.d/
printf '[Socket]\nListenStream=\nListenStream=127.0.0.1:443\n' >/etc/systemd/system/ringgate.socket.d/test.conf
systemctl daemon-reload
cat >app.conf <<'NGINX'
events {}
http { server { listen 127.0.0.2:18080; access_log off; return 200 "app\n"; } }
NGINX
nginx -c "$PWD/app.conf"
until_true 'curl -s -o /dev/null http://127.0.0.2:18080/' || bad "the app" "does not answer"

systemctl start ringgate || bad "start" "exit code $?"
# READY comes after the listeners: nothing is waited for here.
is "a service that has started serves" "$(code $OPEN)" 200
is "policy holds" "$(code https://app.example.test/closed)" 403
is "no line of a good start is an error" "$(journalctl -q -p err -o cat --no-pager _PID=$(property MainPID))" ""
is "what it does is information, without a time of its own" "$(journalctl -q -p info..info -o cat --no-pager _PID=$(property MainPID) | grep -cE '^ *INFO ringgate ')" 1
has "the status tells the generation" "$(property StatusText)" "serves generation 1"
if [ "$(property NFileDescriptorStore)" -ge 3 ]; then ok "listening sockets are stored"; else bad "listening sockets are stored" "$(property NFileDescriptorStore)"; fi

# Reload: good, bad, good again.
sed -i 's|"/open", "/open/\*"|"/open", "/closed"|' /etc/ringgate/ringgate.toml
systemctl reload ringgate; is "a good file is reloaded" "$?" 0
until_true 'property StatusText | grep -q "generation 2"' || bad "reload" "$(property StatusText)"
is "a reload is enforced" "$(code https://app.example.test/closed)" 200
sed -i 's|^action = "ALLOW"|action = "ALOW"|' /etc/ringgate/ringgate.toml
before=$(property MainPID)
systemctl reload ringgate; is "a reload of a bad file fails" "$?" 1
line=$(grep -n ALOW /etc/ringgate/ringgate.toml | cut -d: -f1)
# What the process itself says of the file that it watches has the word `refused`.
has "and its reason is in the journal" "$(journalctl -u ringgate -n 20 -o cat --no-pager 2>&1 | grep -v refused)" "ringgate.toml:$line:"
has "and in systemctl status" "$(systemctl status --no-pager -l ringgate | grep -v refused)" "ringgate.toml:$line:"
# Files are watched as well.
until_true 'property StatusText | grep -q refused' || bad "bad reload" "$(property StatusText)"
has "a bad reload is told with its line" "$(property StatusText)" "ringgate.toml:"
has "and changes nothing" "$(property StatusText)" "serves generation 2"
is "and is active" "$(property ActiveState)" active
is "and is the same process" "$(property MainPID)" "$before"
is "and serves" "$(code $OPEN)" 200
sed -i 's|^action = "ALOW"|action = "ALLOW"|' /etc/ringgate/ringgate.toml
systemctl reload ringgate; is "a file that is mended is reloaded" "$?" 0
until_true '! property StatusText | grep -q refused' || bad "good reload" "$(property StatusText)"

# What the process alone refuses fails the reload as well, with its reason; the check takes it.
cp /etc/ringgate/ringgate.toml taken.toml
printf '\n[limits]\nmaxConnections = 77\n' >>/etc/ringgate/ringgate.toml
ringgate check --config /etc/ringgate/ringgate.toml >check.txt 2>&1 && ok "the check takes what needs a restart" || bad "check" "$(cat check.txt)"
systemctl reload ringgate; is "a reload that the process refuses fails" "$?" 1
has "and says why in systemctl status" "$(systemctl status --no-pager -l ringgate | grep -v 'reload refused,')" "[limits] has changed, which needs a restart"
is "and the process is active" "$(property ActiveState)/$(property MainPID)" "active/$before"
is "and serves all the same" "$(code $OPEN)" 200
cp taken.toml /etc/ringgate/ringgate.toml
systemctl reload ringgate; is "and without it the reload is taken" "$?" 0
# No waiting: the reload ends when the outcome is there.
is "whose outcome is there by then" "$(property StatusText | grep -c refused)" 0

# Restarts: whoever comes meanwhile waits.
load
systemctl restart ringgate && systemctl restart ringgate
is "no request is lost over two restarts" "$(loaded)" ""

# A crash: new connections wait; one that was open may break (curl: 52 empty reply, 56 receive, 35 handshake).
load
systemctl kill --kill-who=main -s KILL ringgate
until_true '[ "$(property NRestarts)" = 1 ]'
lost=$(loaded)
case "$lost" in *"exit 7"*) bad "no connection is refused over a crash" "$lost" ;; *) ok "no connection is refused over a crash" ;; esac

# An upgrade: the program is replaced, the new process takes over.
before=$(property MainPID)
cp /usr/bin/ringgate /usr/bin/ringgate.new && mv /usr/bin/ringgate.new /usr/bin/ringgate
load
systemctl kill --kill-who=main -s USR2 ringgate
until_true "[ \$(property MainPID) != $before ]" || bad "upgrade" "main process is still $before"
is "no request is lost over an upgrade" "$(loaded)" ""
until_true "[ ! -e /proc/$before ]" || bad "the old process drains and ends" "it is there"
is "the service is active" "$(property ActiveState)/$(property SubState)" active/running
has "the new process tells its status" "$(property StatusText)" "serves generation 1"
is "and no restart was counted" "$(property NRestarts)" 1

# An upgrade that fails.
before=$(property MainPID)
cp /usr/bin/ringgate /usr/bin/ringgate.good && cp /bin/false /usr/bin/ringgate.new && mv /usr/bin/ringgate.new /usr/bin/ringgate
load
systemctl kill --kill-who=main -s USR2 ringgate
until_true 'property StatusText | grep -q "this one goes on"' || bad "failed upgrade" "$(property StatusText)"
is "no request is lost over an upgrade that fails" "$(loaded)" ""
is "the process is the same" "$(property MainPID)" "$before"
mv /usr/bin/ringgate.good /usr/bin/ringgate

# An upgrade of the package: what runs hands over, and what the administrator has written stays.
cp /etc/ringgate/ringgate.toml mine.toml
before=$(property MainPID)
load
dpkg -i /test/second/ringgate_*.deb >dpkg.txt 2>&1 || bad "the package is upgraded" "$(cat dpkg.txt)"
lost=$(loaded)
has "an upgrade of the package hands over" "$(cat dpkg.txt)" "ringgate.service has handed over to the new program"
is "no request is lost over it" "$lost" ""
if [ "$(property MainPID)" != "$before" ]; then ok "another process serves"; else bad "another process serves" "$before"; fi
is "the version is the second" "$(dpkg-query -W -f '${Version}' ringgate)" "$(dpkg-deb -f /test/second/ringgate_*.deb Version)"
cmp -s mine.toml /etc/ringgate/ringgate.toml && ok "the configuration stays" || bad "the configuration stays" "$(diff mine.toml /etc/ringgate/ringgate.toml)"
until_true "[ ! -e /proc/$before ]" || bad "the process before drains and ends" "it is there"

# One whose new process fails: its own words are told, and what is to be done.
before=$(property MainPID)
cp /etc/ringgate/ringgate.toml taken.toml; echo 'nonsense = 1' >>/etc/ringgate/ringgate.toml
until_true 'property StatusText | grep -q refused' || bad "a bad file is told" "$(property StatusText)"
dpkg -i /test/second/ringgate_*.deb >dpkg.txt 2>&1 || bad "a package whose program cannot take over is installed" "$(cat dpkg.txt)"
has "a hand-over that fails is told" "$(cat dpkg.txt)" "ringgate.service goes on with the old program: the new process has ended"
has "with the words of the new process" "$(grep '^  ' dpkg.txt | grep -v refused)" "nonsense"
has "and what is to be done" "$(cat dpkg.txt)" "once it is mended: /usr/lib/ringgate/units upgrade"
is "the process before goes on" "$(property MainPID)" "$before"
cp taken.toml /etc/ringgate/ringgate.toml
until_true '! property StatusText | grep -q refused' || bad "a mended file" "$(property StatusText)"
/usr/lib/ringgate/units upgrade >units.txt 2>&1; is "and that is what mends it" "$?" 0
has "it hands over then" "$(cat units.txt)" "ringgate.service has handed over to the new program"
until_true "[ ! -e /proc/$before ]" || bad "the process before drains and ends" "it is there"

# Watchdog: a process that stands still is ended and started again.
systemctl kill --kill-who=main -s STOP ringgate
until_true '[ "$(property NRestarts)" = 2 ]' && ok "a process that stands still is started again" || bad "watchdog" "$(property NRestarts)"
until_true "[ \$(code $OPEN) = 200 ]" && ok "and serves" || bad "and serves" "$(code $OPEN)"

systemctl stop ringgate
is "it stops" "$(property ActiveState)/$(property Result)" inactive/success
$CURL -o /dev/null $OPEN; is "and nothing listens then" "$?" 7

# Socket activation: the first connection starts it.
systemctl start ringgate.socket
is "a socket unit starts it" "$(code $OPEN)" 200
systemctl stop ringgate.socket ringgate

# A role a unit.
sed -E 's#/ringgate/(handover|decisions|authority)#/ringgate-edge/\1#' /etc/ringgate/ringgate.toml >/etc/ringgate/edge.toml
systemctl start ringgate@edge && is "an instance serves its own file" "$(code $OPEN)" 200
for dir in /run/ringgate-edge /var/lib/private/ringgate-edge /var/log/private/ringgate-edge; do
  if [ -d $dir ] && [ -n "$(ls -A $dir)" ]; then ok "$dir is its own"; else bad "$dir is its own" "$(ls -ld $dir 2>&1)"; fi
done

# An instance without `handover` is restarted by an upgrade of the package, and clients wait.
systemctl stop ringgate@edge
sed -i '/^handover/d' /etc/ringgate/edge.toml
systemctl start ringgate@edge
edge() { systemctl show -p "$1" --value ringgate@edge; }
before=$(edge MainPID)
load
dpkg -i /test/second/ringgate_*.deb >dpkg.txt 2>&1 || bad "the package is installed again" "$(cat dpkg.txt)"
lost=$(loaded)
has "an instance without hand-over is restarted" "$(cat dpkg.txt)" "ringgate@edge.service was restarted"
is "no request is lost over that" "$lost" ""
if [ "$(edge MainPID)" != "$before" ]; then ok "the instance is another process"; else bad "the instance is another process" "$before"; fi
# Not if the new program would not start.
before=$(edge MainPID)
cp /etc/ringgate/edge.toml good.toml; echo 'nonsense = 1' >>/etc/ringgate/edge.toml
dpkg -i /test/second/ringgate_*.deb >dpkg.txt 2>&1 || bad "a package with an instance that cannot start is installed" "$(cat dpkg.txt)"
has "an instance that could not start goes on" "$(cat dpkg.txt)" "ringgate@edge.service goes on with the old program"
has "and it is said why" "$(cat dpkg.txt)" "nonsense"
is "it is the same process" "$(edge MainPID)" "$before"
is "which serves" "$(code $OPEN)" 200
systemctl reload ringgate@edge; is "a reload of an instance with a bad file fails" "$?" 1
has "and says why" "$(journalctl -u ringgate@edge -n 20 -o cat --no-pager 2>&1)" nonsense
is "and it is the same process still" "$(edge MainPID)" "$before"
cp good.toml /etc/ringgate/edge.toml
systemctl reload ringgate@edge; is "and with a good one it succeeds" "$?" 0

# Two roles on a machine as `init` writes them, with what it says: directories, admin ports and tokens of their own.
ip address add 10.1.0.1/32 dev lo; ip address add 10.1.0.10/32 dev lo
ringgate init --role authority --instance ca >init.txt && has "init tells the unit" "$(cat init.txt)" "systemctl enable --now ringgate@ca"
ringgate init --role waypoint --config /etc/ringgate/way.toml >init.txt && has "of a file of an instance too" "$(cat init.txt)" "systemctl enable --now ringgate@way"
systemctl start ringgate@ca || bad "an authority that init has written starts" "$(journalctl -u ringgate@ca -n 20 -o cat --no-pager)"
(cd /etc/ringgate && sed -n 's/^#   //p' way.toml | sed 's#ringgate authority#ringgate authority --config ca.toml#' | sh -e && chgrp ringgate way.join-token && chmod 640 way.join-token) || bad "the commands of its comments" "$?"
systemctl start ringgate@way && ok "a waypoint beside it starts" || bad "a waypoint beside it starts" "$(journalctl -u ringgate@way -n 20 -o cat --no-pager)"
for of in ca way; do
  has "ringgate@$of is asked by its file" "$(ringgate status --config /etc/ringgate/$of.toml 2>&1)" "$of serves"
  [ -n "$(ls -A /var/lib/private/ringgate-$of)" ] && ok "ringgate@$of has its own state" || bad "ringgate@$of has its own state" "$(ls -lA /var/lib/private)"
done
# Users of their own: what one has, the other cannot read.
uid() { sed -n 's/^Uid:\t\([0-9]*\)\t.*/\1/p' "/proc/$(systemctl show -p MainPID --value "ringgate@$1")/status"; }
ca=$(uid ca) way=$(uid way)
if [ -n "$ca" ] && [ -n "$way" ] && [ "$ca" != "$way" ] && [ "$ca" != "$(id -u ringgate)" ] && [ "$way" != "$(id -u ringgate)" ]; then ok "each instance is another user"; else bad "each instance is another user" "ca \`$ca\`, way \`$way\`, ringgate \`$(id -u ringgate)\`"; fi
is "the authority's state is of its user, for nobody else" "$(stat -c '%u %a' /var/lib/private/ringgate-ca)" "$ca 700"
is "nothing warns of its token" "$(journalctl -u ringgate@way -o cat --no-pager | grep -c 'may read the secret')" 0
systemctl reload ringgate@way; is "an instance is reloaded" "$?" 0
systemctl stop ringgate@way ringgate@ca

for unit in ringgate.service ringgate@edge.service; do
  systemd-analyze verify --man=no $unit && ok "$unit is verified" || bad "$unit is verified" "see above"
  echo "exposure of $unit: $(systemd-analyze --no-pager security $unit | tail -1)"
done

# Removed: nothing runs, what was written stays. Purged: nothing is left.
systemctl enable -q ringgate ringgate@edge
# Rules of capture go with the program that could remove them.
printf 'table inet ringgate {\n}\n' | nft -f - || bad "nft" "$?"
dpkg -r ringgate >dpkg.txt 2>&1 || bad "the package is removed" "$(cat dpkg.txt)"
is "what ran is stopped" "$(edge ActiveState)" inactive
is "rules of capture are gone" "$(nft list tables | grep -c ringgate)" 0
$CURL -o /dev/null $OPEN; is "nothing listens then" "$?" 7
[ ! -e /usr/bin/ringgate ] && ok "the program is gone" || bad "the program is gone" "it is there"
[ -s /etc/ringgate/ringgate.toml ] && ok "the configuration is there" || bad "the configuration is there" "it is gone"
rm -rf /etc/systemd/system/ringgate*.d
dpkg -P ringgate >dpkg.txt 2>&1 || bad "the package is purged" "$(cat dpkg.txt)"
left=$(find / -xdev \( -path /test -o -path /proc -o -path /sys -o -path /tmp \) -prune -o \( -name '*ringgate*' ! -name 'ringgate-test.service' -print \); getent passwd ringgate; getent group ringgate)
is "nothing is left of it" "$left" ""

# The README's commands, on what is left: the program of its last line is answered by the ingress, and no app is there.
mkdir -p target bin && ln -s /test/second target/package
cat >bin/sudo <<'SUDO' && chmod 755 bin/sudo
#!/bin/sh
if [ "$1" = -u ]; then user=$2; shift 2; exec setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"; fi
exec "$@"
SUDO
PATH="$PWD/bin:$PATH" sh -ex /test/install.sh >install.txt 2>&1 || bad "the README's commands succeed" "$(cat install.txt)"
has "what is in the README is installed" "$(tail -n 1 install.txt)" upstream_connect
is "and enabled" "$(systemctl is-enabled ringgate)" enabled
is "what is in the README is installed and serves" "$(tail -n 1 install.txt | grep -c upstream_connect)/$(systemctl is-active ringgate)" 1/active
exit $failed
