/* A cell that ends with the last reference to a Python object, and not before.
 *
 * For things that live as long as an object of Python.  Python's collector of cycles
 * runs the finalizers of all that is garbage together, in any order: what `ffi.gc`
 * would own might end before a generator that still has to close it, or before the
 * threads that use it.  A capsule has a destructor and no finalizer.  What the thing
 * borrows is held from here, where the collector does not look, so it is no garbage as
 * long as the thing is. */
#ifndef OWNED_H
#define OWNED_H

#include <Python.h>
#include <stdint.h>
#include <stdlib.h>

#include "sf_cell.h"

#define OWNED_NAME "savefmt.owned"

struct owned {
    void *content;
    void (*drop)(void *cell);
    PyObject *borrowed;
};

static void owned_end(PyObject *capsule)
{
    struct owned *owned = PyCapsule_GetPointer(capsule, OWNED_NAME);

    /* It may have to wait for its threads. */
    PyThreadState *thread = PyEval_SaveThread();
    owned->drop(&owned->content);
    PyEval_RestoreThread(thread);
    Py_DecRef(owned->borrowed);
    free(owned);
}

/* Return an empty cell, whose capsule goes into the list BOX; NULL without memory. */
static void *owned_begin(void (*drop)(void *cell), uintptr_t borrowed, uintptr_t box)
{
    struct owned *owned = calloc(1, sizeof *owned);

    if (owned == NULL) {
        return NULL;
    }
    const PyGILState_STATE state = PyGILState_Ensure();
    owned->drop = drop;
    owned->borrowed = (PyObject *)borrowed;
    Py_IncRef(owned->borrowed);
    PyObject *capsule = PyCapsule_New(owned, OWNED_NAME, owned_end);
    if (capsule == NULL) {
        Py_DecRef(owned->borrowed);
        free(owned);
        owned = NULL;
    } else {
        if (PyList_Append((PyObject *)box, capsule) != 0) {
            owned = NULL;
        }
        Py_DecRef(capsule);
    }
    PyErr_Clear(); /* NULL says that memory is short */
    PyGILState_Release(state);
    return owned;
}

#define SF_OWN(kind)                                                                   \
    static void kind##_end(void *cell)                                                 \
    {                                                                                  \
        kind##_drop(cell);                                                             \
    }                                                                                  \
    static struct kind **kind##_own(uintptr_t borrowed, uintptr_t box)                 \
    {                                                                                  \
        return owned_begin(kind##_end, borrowed, box);                                 \
    }

SF_OWN(sf_append)
SF_OWN(sf_emit)
SF_OWN(sf_file)
SF_OWN(sf_index)
SF_OWN(sf_many)
SF_OWN(sf_map)
SF_OWN(sf_scan)
SF_OWN(sf_scatter)
SF_OWN(sf_table)
SF_OWN(sf_tally)

#undef SF_OWN

#endif
