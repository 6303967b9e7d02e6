package crmcom

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/lenient"
)

// Base is the path of the API.
const Base = "/crmapi/rest/v2/"

// Service is what the adapter needs of the core; *[ingest.Service] is it.
type Service interface {
	Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error)
	AuthenticateToken(r *http.Request, door, token string) (*ingest.Caller, error)
	IssueToken(c *ingest.Caller, unit string) string
	ReadBody(r *http.Request) ([]byte, error)
	Submit(ctx context.Context, b *ingest.Batch) (*ingest.Receipt, error)
}

var _ Service = (*ingest.Service)(nil)

// Adapter serves the API.
type Adapter struct{ svc Service }

// New makes the adapter.
func New(svc Service) *Adapter { return &Adapter{svc} }

// Register adds the routes. Everything below [Base] belongs to the adapter, so that an unknown method is answered as any other failed call is.
func (a *Adapter) Register(mux *http.ServeMux) {
	handle := func(path string, serve func(r *http.Request) (answer, error)) {
		h := func(w http.ResponseWriter, r *http.Request) {
			reply, err := serve(r)
			if err != nil {
				reply = refusal(w, r, err)
			}
			reply.write(w)
		}
		mux.HandleFunc("POST "+Base+path, h)
		mux.HandleFunc("POST "+Base+path+"/{$}", h)
	}
	handle("authentication/token", a.login)
	handle("authentication/web_api_key/token", a.keyLogin)
	handle("authentication/token/release", a.release)
	for i := range methods {
		k := &methods[i]
		handle("customer_events/bulk/"+k.path+"/create", func(r *http.Request) (answer, error) { return a.create(r, k) })
	}
	mux.HandleFunc(Base, func(w http.ResponseWriter, r *http.Request) {
		answer{body: formatFailure(&failure{unknownCall, fmt.Sprintf("%s %s Is Not a Web API Method.", r.Method, r.URL.Path)})}.write(w)
	})
}

// answer is what goes back.
type answer struct {
	status   int // 0: 200
	location string
	body     []byte
}

func (a answer) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client is gone; the access log shows it by the bytes
}

// refusal puts an error into the envelope. What CRM.COM itself would refuse is answered with HTTP 200, because its clients look at
// status.code and lose the text otherwise; what our limits and our troubles refuse keeps its HTTP status.
func refusal(w http.ResponseWriter, r *http.Request, err error) answer {
	if f, ok := err.(*failure); ok {
		return answer{body: formatFailure(f)}
	}
	e := ingest.AsError(err)
	ingest.NoteError(r, e)
	e.SetRetryAfter(w)
	message := e.Message
	if e.Index >= 0 {
		message = fmt.Sprintf("Row %d: %s", e.Index, message)
	}
	f := &failure{internalCall, message}
	status := e.Status()
	switch e.Code {
	case ingest.CodeMalformed, ingest.CodeUnsupported:
		f.exception, status = invalidValue, http.StatusOK
	case ingest.CodeUnauthenticated, ingest.CodeForbidden:
		f.exception, status = invalidToken, http.StatusOK
	case ingest.CodeIdempotencyKey:
		f.exception = invalidValue
	case ingest.CodeIdempotencyConflict:
		f.exception = keyReused
	case ingest.CodeTooLarge:
		f.exception = tooLarge
	case ingest.CodeRateLimited:
		f.exception = tooMany
	case ingest.CodeBusy:
		f.exception = unavailable
	case ingest.CodeNotFound:
		f.exception = unknownCall
	}
	return answer{status: status, body: formatFailure(f)}
}

// create serves the seven bulk methods.
func (a *Adapter) create(r *http.Request, k *kind) (answer, error) {
	body, err := a.svc.ReadBody(r)
	if err != nil {
		return answer{}, err
	}
	// Whether the call is in order comes after who calls: nobody learns anything else without a token.
	c, wrong := parseCall(string(body), k)
	if c == nil {
		return answer{}, wrong
	}
	caller, err := a.caller(r, c.token)
	if err != nil {
		return answer{}, err
	}
	if wrong != nil {
		return answer{}, wrong
	}
	ingest.NoteContent(r, "application/json", "")
	items := parseRows(c, k, caller.Tenant)
	if len(items) == 0 && !ingest.Keyed(r) {
		return answer{body: formatReceipt(&ingest.Receipt{}, nil, c.fields)}, nil
	}
	receipt, err := a.svc.Submit(r.Context(), &ingest.Batch{
		Tenant: caller.Tenant, KeyID: caller.KeyID, Door: ingest.DoorCRM, Operation: k.path, Kind: k.topic, ItemKind: k.event, Items: items,
	})
	if err != nil {
		return answer{}, err
	}
	if receipt.Pending > 0 {
		job := ingest.JobURL(receipt.Number)
		message := fmt.Sprintf("%d of %d Customer Events Are Not Yet Processed. Do Not Send Them Again, Their Outcomes Will Be Found at %s.", receipt.Pending, len(items), job)
		return answer{status: http.StatusAccepted, location: job, body: formatFailure(&failure{pending, message})}, nil
	}
	return answer{body: formatReceipt(receipt, items, c.fields)}, nil
}

// caller finds out who calls: by the member token, or by a key in a header, which every door of ours takes.
func (a *Adapter) caller(r *http.Request, token string) (caller *ingest.Caller, err error) {
	if token != "" {
		caller, err = a.svc.AuthenticateToken(r, ingest.DoorCRM, token)
	} else {
		caller, err = a.svc.Authenticate(r, ingest.DoorCRM)
	}
	return caller, denied(err, &failure{invalidToken, "Token Is Not Valid"})
}

// denied replaces every refusal of a caller by f: whether a key exists, is disabled or may not be used from here is nobody's business.
func denied(err error, f *failure) error {
	if err == nil {
		return nil
	}
	if e := ingest.AsError(err); e.Code == ingest.CodeUnauthenticated || e.Code == ingest.CodeForbidden {
		return f
	}
	return err
}

// login serves authentication/token: user name and password are the two halves of a key, the organisation is its tenant.
func (a *Adapter) login(r *http.Request) (answer, error) {
	m, err := a.members(r, "username", "password", "organisation", "unit")
	if err != nil {
		return answer{}, err
	}
	for _, name := range []string{"username", "password", "organisation"} {
		if m[name] == "" {
			return answer{}, &failure{mandatoryValue, name + " Is Mandatory."}
		}
	}
	return a.issue(r, ingest.Credential{ID: m["username"], Secret: m["password"], Tenant: m["organisation"]}, m["unit"])
}

// keyLogin serves authentication/web_api_key/token: the key is the user name of HTTP Basic, without a password. The body may name a unit.
func (a *Adapter) keyLogin(r *http.Request) (answer, error) {
	m, err := a.members(r, "unit")
	if err != nil {
		return answer{}, err
	}
	return a.issue(r, ingest.Credential{}, m["unit"])
}

func (a *Adapter) issue(r *http.Request, credential ingest.Credential, unit string) (answer, error) {
	if len(unit) > maxUnit {
		return answer{}, &failure{invalidValue, "unit Is Not Valid."}
	}
	caller, err := a.svc.Authenticate(r, ingest.DoorCRM, credential)
	if err != nil {
		return answer{}, denied(err, &failure{invalidCredentials, "Credentials Are Not Valid"})
	}
	return answer{body: formatToken(a.svc.IssueToken(caller, unit))}, nil
}

// maxUnit bounds the bytes of a unit's id, which goes into the token.
const maxUnit = 200

// release serves authentication/token/release. Tokens are signed, not stored: there is nothing to release, the token lives out its time.
func (a *Adapter) release(r *http.Request) (answer, error) {
	m, err := a.members(r, "token")
	if err != nil {
		return answer{}, err
	}
	if _, err := a.caller(r, m["token"]); err != nil {
		return answer{}, err
	}
	return answer{body: formatDone()}, nil
}

// members reads the named texts of a small body, an object or nothing at all.
func (a *Adapter) members(r *http.Request, names ...string) (map[string]string, error) {
	body, err := a.svc.ReadBody(r)
	if err != nil {
		return nil, err
	}
	return parseMembers(string(body), names...)
}

func parseMembers(body string, names ...string) (map[string]string, error) {
	m := map[string]string{}
	if strings.TrimSpace(body) == "" {
		return m, nil
	}
	in := lenient.NewReader(body, lenient.JSON)
	if in.Kind() == lenient.Object {
		for in.Enter(); in.More(); {
			name := in.Name()
			v := in.Value()
			for _, want := range names {
				if name == want && (v.Kind == lenient.String || v.Kind == lenient.Number) {
					m[want] = v.Text
				}
			}
		}
	} else if v := in.Value(); v.Kind != lenient.Invalid {
		return nil, &failure{invalidValue, "The Request Body Is Not a JSON Object."}
	}
	if err := in.End(); err != nil {
		return nil, malformed(err)
	}
	return m, nil
}
