/* sf_err: what is said, where, and with how little. */
#include "check.h"

static void test_set(void)
{
    struct sf_err err = {SF_OK, 99, 0, ""};

    CHECK_EQ(sf_err_set(&err, SF_E_FORMAT, 7, "%s %d", "word", 5), SF_E_FORMAT);
    CHECK_EQ(err.status, SF_E_FORMAT);
    CHECK_EQ(err.errnum, 0);
    CHECK_EQ(err.offset, 7);
    CHECK(strcmp(err.message, "word 5") == 0);
}

static void test_os(void)
{
    struct sf_err err;

    CHECK_EQ(sf_err_os(&err, ENOSPC, SF_NO_OFFSET, "write"), SF_E_OS);
    CHECK_EQ(err.status, SF_E_OS);
    CHECK_EQ(err.errnum, ENOSPC);
    CHECK_EQ(err.offset, SF_NO_OFFSET);
    CHECK(strcmp(err.message, "write") == 0);
}

static void test_nobody_asks(void)
{
    CHECK_EQ(sf_err_set(NULL, SF_E_NOMEM, 0, "x"), SF_E_NOMEM);
    CHECK_EQ(sf_err_os(NULL, EIO, 0, "x"), SF_E_OS);
}

static void test_a_long_message_is_cut(void)
{
    struct sf_err err;
    char text[1000];

    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    sf_err_set(&err, SF_E_RANGE, 0, "%s", text);
    CHECK_EQ(strlen(err.message), sizeof err.message - 1);
    CHECK_EQ(sf_err_wrap(&err, "%s", text), SF_E_RANGE);
    CHECK(strlen(err.message) < sizeof err.message);
    CHECK(strstr(err.message, "a: a") != NULL);
}

static void test_wrap(void)
{
    struct sf_err err;

    sf_err_os(&err, EIO, 512, "read");
    CHECK_EQ(sf_err_wrap(&err, "page %d", 3), SF_E_OS);
    CHECK(strcmp(err.message, "page 3: read") == 0);
    CHECK_EQ(err.errnum, EIO);
    CHECK_EQ(err.offset, 512);
}

int main(void)
{
    test_set();
    test_os();
    test_nobody_asks();
    test_a_long_message_is_cut();
    test_wrap();
    return 0;
}
