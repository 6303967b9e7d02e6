package caliq

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/ingest/lenient"
)

const (
	root       = "CustomerBuyingReportParams"
	xsd        = "http://www.w3.org/2001/XMLSchema"
	xsi        = "http://www.w3.org/2001/XMLSchema-instance"
	whiteSpace = " \t\r\n"
)

// readXML reads a body as XmlSerializer does: the elements of [root] in any order, names exactly, no namespace; xsi:nil is null, and what is
// not known is ignored. A document type is refused. Of two elements with one name the last one counts, as in JSON.
func readXML(body string) (values, error) {
	var x xmlReader
	d := xml.NewDecoder(strings.NewReader(body))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // whatever it was, it is UTF-8 now
	for {
		token, err := d.Token()
		switch {
		case errors.Is(err, io.EOF):
			return x.v, x.finish(body)
		case err != nil:
			return x.v, xmlProblem(err)
		}
		switch t := token.(type) {
		case xml.Directive:
			err = errors.New("a document type is not allowed")
		case xml.StartElement:
			err = x.start(t)
		case xml.CharData:
			err = x.text(t)
		case xml.EndElement:
			x.end()
		}
		if err != nil {
			return x.v, err
		}
	}
}

// xmlReader is how far a body was read.
type xmlReader struct {
	v       values
	begun   bool // the root was there
	depth   int  // of elements; members are at 2
	member  int  // place in names of the element at depth 2; -1: none of them
	content strings.Builder
}

func (x *xmlReader) start(t xml.StartElement) error {
	switch x.depth++; {
	case x.depth > ingest.MaxDepth:
		return fmt.Errorf("nested deeper than %d levels", ingest.MaxDepth)
	case x.depth == 1 && (x.begun || t.Name.Space != "" || t.Name.Local != root):
		return errors.New("one element " + root + " without a namespace is expected")
	case x.depth == 1:
		x.begun = true
	case x.depth == 2:
		x.content.Reset()
		if x.member = indexOf(t.Name); x.member >= 0 {
			x.v[x.member] = lenient.Value{Kind: lenient.String}
			if isNil(t.Attr) {
				x.v[x.member].Kind = lenient.Null
			}
		}
	case x.member >= 0: // an element in a text
		x.v[x.member].Kind = lenient.Object
	}
	return nil
}

func (x *xmlReader) text(t xml.CharData) error {
	switch {
	case x.depth == 0 && strings.Trim(string(t), whiteSpace) != "":
		return errors.New("there is text outside of the element")
	case x.depth == 2:
		x.content.Write(t)
	}
	return nil
}

func (x *xmlReader) end() {
	if x.depth == 2 && x.member >= 0 && x.v[x.member].Kind == lenient.String {
		x.v[x.member].Text = x.content.String()
	}
	x.depth--
}

func (x *xmlReader) finish(body string) error {
	switch {
	case x.begun:
		return nil
	case strings.Trim(body, whiteSpace) == "":
		return errNothing
	}
	return errors.New("there is no element")
}

func indexOf(name xml.Name) int {
	for i := range names {
		if name.Space == "" && name.Local == names[i] {
			return i
		}
	}
	return -1
}

func isNil(attributes []xml.Attr) bool {
	for _, a := range attributes {
		if a.Name.Space == xsi && a.Name.Local == "nil" {
			return a.Value == "true" || a.Value == "1"
		}
	}
	return false
}

// xmlProblem says where and why a text is not XML.
func xmlProblem(err error) error {
	var syntax *xml.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%s on line %d", syntax.Msg, syntax.Line)
	}
	return errors.New("it is not XML 1.0")
}
