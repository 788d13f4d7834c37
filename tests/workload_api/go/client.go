// What a workload does with the Workload API, by go-spiffe; prints JSON, one object a line.
//
// client USER SOCKET COMMAND [ARGUMENT...]
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// Longer than anything takes on a loaded machine.
const patience = 60 * time.Second

type object map[string]any

func tell(what object) {
	check(json.NewEncoder(os.Stdout).Encode(what))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// words is the text of an error, or nil.
func words(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}

func describe(svid *x509svid.SVID) object {
	return object{
		"id":     svid.ID.String(),
		"chain":  len(svid.Certificates),
		"serial": svid.Certificates[0].SerialNumber.String(),
	}
}

// watch tells the SVID and the roots, then every SVID that is pushed.
func watch(ctx context.Context, at workloadapi.ClientOption, count string) {
	n, err := strconv.Atoi(count)
	check(err)
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(at))
	check(err)
	defer source.Close()
	for i := 0; ; i++ {
		svid, err := source.GetX509SVID()
		check(err)
		bundle, err := source.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		check(err)
		told := describe(svid)
		told["roots"] = len(bundle.X509Authorities())
		_, _, err = x509svid.Verify(svid.Certificates, source)
		told["verified"] = words(err)
		tell(told)
		if i == n {
			return
		}
		check(source.WaitUntilUpdated(ctx))
	}
}

// all tells every identity that there is.
func all(ctx context.Context, at workloadapi.ClientOption) {
	svids, err := workloadapi.FetchX509SVIDs(ctx, at)
	if err != nil {
		tell(object{"error": words(err)})
		return
	}
	told := []object{}
	for _, svid := range svids {
		one := describe(svid)
		one["hint"] = svid.Hint
		told = append(told, one)
	}
	tell(object{"svids": told})
}

// token has one made, and validated in three ways: by the bundle, by the server, and for somebody else.
func token(ctx context.Context, at workloadapi.ClientOption, audience string) {
	source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(at))
	check(err)
	defer source.Close()
	params := jwtsvid.Params{Audience: audience, ExtraAudiences: []string{"second"}}
	svid, err := source.FetchJWTSVID(ctx, params)
	check(err)
	own, err := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{audience})
	check(err)
	served, err := workloadapi.ValidateJWTSVID(ctx, svid.Marshal(), audience, at)
	check(err)
	_, otherOwn := jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"somebody-else"})
	_, otherServed := workloadapi.ValidateJWTSVID(ctx, svid.Marshal(), "somebody-else", at)
	_, noKeys := jwtsvid.ParseAndValidate(svid.Marshal(), jwtbundle.NewSet(), []string{audience})
	tell(object{
		"id":          svid.ID.String(),
		"audience":    svid.Audience,
		"seconds":     int(time.Until(svid.Expiry).Seconds()),
		"own":         own.ID.String(),
		"served":      served.ID.String(),
		"otherOwn":    words(otherOwn),
		"otherServed": words(otherServed),
		"noKeys":      words(noKeys),
	})
}

// echoed says whether what is written comes back.
func echoed(conn net.Conn) error {
	said := []byte("are you there?")
	check(conn.SetDeadline(time.Now().Add(patience)))
	if _, err := conn.Write(said); err != nil {
		return err
	}
	heard := make([]byte, len(said))
	if _, err := io.ReadFull(conn, heard); err != nil {
		return err
	}
	if string(heard) != string(said) {
		return fmt.Errorf("heard %q", heard)
	}
	return nil
}

// call asks a member of the mesh over mTLS, and expects it to be `member`.
func call(ctx context.Context, at workloadapi.ClientOption, address, member string) {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(at))
	check(err)
	defer source.Close()
	expected, err := spiffeid.FromString(member)
	check(err)
	mode := spiffetls.MTLSClientWithSource(tlsconfig.AuthorizeID(expected), source)
	conn, err := spiffetls.DialWithMode(ctx, "tcp", address, mode)
	if err != nil {
		tell(object{"handshake": words(err)})
		return
	}
	defer conn.Close()
	peer, err := spiffetls.PeerIDFromConn(conn)
	check(err)
	tell(object{"handshake": nil, "peer": peer.String(), "echo": words(echoed(conn))})
}

// serve answers one caller over mTLS, who has to be `caller`.
func serve(ctx context.Context, at workloadapi.ClientOption, address, caller string) {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(at))
	check(err)
	defer source.Close()
	expected, err := spiffeid.FromString(caller)
	check(err)
	mode := spiffetls.MTLSServerWithSource(tlsconfig.AuthorizeID(expected), source)
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", address, mode)
	check(err)
	defer listener.Close()
	tell(object{"address": listener.Addr().String()})
	conn, err := listener.Accept()
	check(err)
	defer conn.Close()
	check(conn.SetDeadline(time.Now().Add(patience)))
	heard := make([]byte, 14)
	if _, err := io.ReadFull(conn, heard); err != nil {
		tell(object{"error": words(err)})
		return
	}
	peer, err := spiffetls.PeerIDFromConn(conn)
	check(err)
	_, err = conn.Write(heard)
	check(err)
	tell(object{"peer": peer.String(), "error": nil})
	// The other side ends it.
	_, _ = io.Copy(io.Discard, conn)
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	// Here and not before the start: the program may be closed to other users.
	user, err := strconv.Atoi(os.Args[1])
	check(err)
	check(syscall.Setgroups([]int{}))
	check(syscall.Setresgid(user, user, user))
	check(syscall.Setresuid(user, user, user))
	at := workloadapi.WithAddr("unix://" + os.Args[2])
	arguments := os.Args[4:]
	switch os.Args[3] {
	case "watch":
		watch(ctx, at, arguments[0])
	case "all":
		all(ctx, at)
	case "token":
		token(ctx, at, arguments[0])
	case "call":
		call(ctx, at, arguments[0], arguments[1])
	case "serve":
		serve(ctx, at, arguments[0], arguments[1])
	default:
		check(fmt.Errorf("unknown command %q", os.Args[3]))
	}
}
