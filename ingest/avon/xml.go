package avon

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/counterfoil/counterfoil/ingest"
)

// Namespaces: of the contract, of the element of a list that is nil, and of what ResponseStatus is made of.
const (
	contractNS = "http://schemas.datacontract.org/2004/07/NAV.ServiceModel"
	instanceNS = "http://www.w3.org/2001/XMLSchema-instance"
	typesNS    = "http://schemas.servicestack.net/types"
	arraysNS   = "http://schemas.microsoft.com/2003/10/Serialization/Arrays"
)

// itemElement is the element of a transaction.
const itemElement = operation + "ViewModel"

// element reads a body in XML that is one DTO.
func (q *request) element(body string) error {
	x := newXML(body)
	root, err := x.root(operation)
	if err == nil {
		err = q.xmlDTO(x, root)
	}
	if err == nil {
		err = x.end()
	}
	return err
}

// elements reads a body in XML that is an array of DTOs.
func (q *request) elements(body string) error {
	x := newXML(body)
	if _, err := x.root("ArrayOf" + operation); err != nil {
		return err
	}
	for {
		child, more, err := x.child()
		switch {
		case err != nil:
			return err
		case !more:
			return x.end()
		case child.Name.Local != operation || !isOurs(child):
			return x.unexpected(child, operation)
		}
		q.begin()
		if err := q.xmlDTO(x, child); err != nil {
			return err
		}
		q.end()
	}
}

// xmlDTO reads a request DTO, whose start was read.
func (q *request) xmlDTO(x *xmlReader, start xml.StartElement) error {
	if null, err := x.null(start); err != nil || null {
		return err
	}
	for {
		child, more, err := x.child()
		switch {
		case err != nil || !more:
			return err
		case !strings.EqualFold(child.Name.Local, list):
			_, err = x.value(child) // not of this operation
		case !isOurs(child):
			return x.unexpected(child, list)
		default:
			err = q.xmlList(x, child)
		}
		if err != nil {
			return err
		}
	}
}

// xmlList reads the list of transactions. What else stands in it is refused: it would be lost.
func (q *request) xmlList(x *xmlReader, start xml.StartElement) error {
	if null, err := x.null(start); err != nil || null {
		return err
	}
	q.beginList()
	for {
		child, more, err := x.child()
		switch {
		case err != nil || !more:
			return err
		case child.Name.Local != itemElement || !isOurs(child):
			return x.unexpected(child, itemElement)
		}
		if err := q.beginTransaction(); err != nil {
			return err
		}
		if err := q.xmlTransaction(x, child); err != nil {
			return err
		}
		q.endTransaction()
	}
}

// xmlTransaction reads a transaction's members, in any order: the partner's server drops those that are not in the alphabet's.
func (q *request) xmlTransaction(x *xmlReader, start xml.StartElement) error {
	if null, err := x.null(start); err != nil || null {
		return err
	}
	for {
		child, more, err := x.child()
		if err != nil || !more {
			return err
		}
		place := placeOf(child.Name.Local)
		if place >= 0 && !isOurs(child) {
			return x.unexpected(child, members[place].name)
		}
		v, err := x.value(child)
		if err != nil {
			return err
		}
		if place >= 0 {
			q.set(place, v)
		}
	}
}

// isOurs reports whether an element is in the contract's namespace or in none.
func isOurs(e xml.StartElement) bool { return e.Name.Space == contractNS || e.Name.Space == "" }

// xmlReader walks over a document: root, then for each element its children, or its value.
type xmlReader struct {
	*xml.Decoder
	depth int
	buf   []byte // of the text that is being read
}

func newXML(body string) *xmlReader {
	x := &xmlReader{Decoder: xml.NewDecoder(strings.NewReader(body))}
	x.CharsetReader = func(charset string, r io.Reader) (io.Reader, error) {
		if strings.EqualFold(charset, "us-ascii") {
			return r, nil
		}
		return nil, errors.New("the encoding " + charset + " is not known, UTF-8 is expected")
	}
	return x
}

func (x *xmlReader) fail(format string, args ...any) error {
	line, column := x.InputPos()
	return &malformed{fmt.Sprintf(format, args...) + fmt.Sprintf(" before line %d, column %d", line, column)}
}

func (x *xmlReader) unexpected(e xml.StartElement, want string) error {
	return x.fail("unexpected element %s in the namespace %q, %s in %q is expected", shown(e.Name.Local), shown(e.Name.Space), want, contractNS)
}

// next reads an element's start or end, or text between them; nil at the end of the document.
func (x *xmlReader) next() (xml.Token, error) {
	for {
		t, err := x.Token()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, &malformed{err.Error()}
		}
		switch t := t.(type) {
		case xml.StartElement:
			if x.depth++; x.depth > ingest.MaxDepth {
				return nil, x.fail("nested deeper than %d levels", ingest.MaxDepth)
			}
			return t, nil
		case xml.EndElement:
			x.depth--
			return t, nil
		case xml.CharData:
			return t, nil
		case xml.Directive:
			return nil, x.fail("a document type is prohibited")
		}
	}
}

// child reads the start of the next element in the one that is being read; at its end more is false.
func (x *xmlReader) child() (start xml.StartElement, more bool, err error) {
	for {
		t, err := x.next()
		if err != nil {
			return start, false, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			return t, true, nil
		case xml.CharData:
			if strings.TrimSpace(string(t)) != "" {
				return start, false, x.fail("unexpected text %q", shown(string(t)))
			}
		default:
			return start, false, nil
		}
	}
}

// root reads the start of the document's element.
func (x *xmlReader) root(name string) (xml.StartElement, error) {
	start, more, err := x.child()
	switch {
	case err != nil:
		return start, err
	case !more:
		return start, x.fail("there is no element")
	case start.Name.Local != name || !isOurs(start):
		return start, x.unexpected(start, name)
	}
	return start, nil
}

// end reads what follows the document's element, which is nothing that counts.
func (x *xmlReader) end() error {
	start, more, err := x.child()
	if more {
		return x.fail("a second element %s", shown(start.Name.Local))
	}
	return err
}

// null reports whether an element of elements is nil, and then passes over it.
func (x *xmlReader) null(start xml.StartElement) (bool, error) {
	null, err := x.nilAttr(start)
	if null {
		_, err = x.value(start)
	}
	return null, err
}

// nilAttr looks for i:nil.
func (x *xmlReader) nilAttr(start xml.StartElement) (bool, error) {
	for _, a := range start.Attr {
		if a.Name.Local != "nil" || a.Name.Space == "xmlns" {
			continue
		}
		if a.Name.Space != instanceNS {
			return false, x.fail("nil is in the namespace %q, %q is expected", shown(a.Name.Space), instanceNS)
		}
		switch strings.TrimSpace(a.Value) {
		case "true", "1":
			return true, nil
		case "false", "0":
		default:
			return false, x.fail("nil is %q, true or false is expected", shown(a.Value))
		}
	}
	return false, nil
}

// value reads the content of an element up to its end: its text, or null. Where it has elements, it is an object.
func (x *xmlReader) value(start xml.StartElement) (value, error) {
	v := value{kind: text}
	x.buf = x.buf[:0]
	for outer := x.depth - 1; x.depth > outer; {
		t, err := x.next()
		if err != nil {
			return v, err
		}
		switch t := t.(type) {
		case xml.StartElement:
			v.kind = object
		case xml.CharData:
			x.buf = append(x.buf, t...)
		}
	}
	v.text = string(x.buf)
	isNull, err := x.nilAttr(start)
	if isNull {
		v.kind = null
	}
	return v, err
}
